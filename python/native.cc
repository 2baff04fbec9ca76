// tidegate._native: the C++ API for Python, as it is. What is pleasant to use is in tidegate/*.py.
// Each call lets other Python threads run, and an error is a tidegate.Error with its code.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <tidegate/coordinator.h>
#include <tidegate/model.h>
#include <tidegate/site.h>

#include <future>

namespace py = pybind11;

namespace {

py::object& ErrorType() {
  static py::object* type = new py::object();  // lives as long as the interpreter
  return *type;
}

[[noreturn]] void Raise(const tg::Status& status) {
  const py::object error = ErrorType()(static_cast<int>(status.code()), status.message());
  PyErr_SetObject(ErrorType().ptr(), error.ptr());
  throw py::error_already_set();
}

// Without the interpreter's lock, in slices, so that Ctrl-C is heard: `ask` gets how long it may
// take and is asked again until `seconds` are over (below 0: no end).
template <typename F>
auto Do(double seconds, F&& ask) {
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + milliseconds(static_cast<int64_t>(std::max(seconds, 0.0) * 1000));
  for (;;) {
    milliseconds slice(500);
    bool last = false;
    if (seconds >= 0) {
      const auto left = duration_cast<milliseconds>(end - Clock::now());
      last = left <= slice;
      slice = std::max(std::min(left, slice), milliseconds(1));
    }
    auto result = [&] {
      py::gil_scoped_release unlocked;
      return ask(tg::Call(slice));
    }();
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    tg::Status status;
    if constexpr (std::is_same_v<decltype(result), tg::Status>) {
      status = result;
    } else {
      status = result.status();
    }
    if (status.code() == tg::Code::kDeadlineExceeded && !last) continue;
    if (!status.ok()) Raise(status);
    if constexpr (std::is_same_v<decltype(result), tg::Status>) {
      return;
    } else {
      return std::move(*result);
    }
  }
}

// For requests that are not to be made twice: one call, as long as it takes.
template <typename F>
auto Once(double seconds, F&& ask) {
  const int64_t millis = seconds < 0 ? -1 : static_cast<int64_t>(seconds * 1000);
  auto result = [&] {
    py::gil_scoped_release unlocked;
    return ask(tg::Call(std::chrono::milliseconds(millis)));
  }();
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  if constexpr (std::is_same_v<decltype(result), tg::Status>) {
    if (!result.ok()) Raise(result);
    return;
  } else {
    if (!result.ok()) Raise(result.status());
    return std::move(*result);
  }
}

// For what takes minutes and is made once: in a thread of its own, which Ctrl-C ends.
template <typename F>
auto Long(double seconds, F&& ask) {
  const int64_t millis = seconds < 0 ? -1 : static_cast<int64_t>(seconds * 1000);
  const tg::Cancel cancel;
  auto running = std::async(
      std::launch::async, [&] { return ask(tg::Call(std::chrono::milliseconds(millis), cancel)); });
  for (bool ended = false; !ended;) {
    {
      py::gil_scoped_release unlocked;
      ended = running.wait_for(std::chrono::milliseconds(100)) == std::future_status::ready;
    }
    if (PyErr_CheckSignals() != 0) {
      cancel.Now();
      py::gil_scoped_release unlocked;
      running.wait();
      ended = true;
    }
  }
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  auto result = running.get();
  if (!result.ok()) Raise(result.status());
  return std::move(*result);
}

py::object NumberOrNone(int64_t number) {
  return number < 0 ? py::none() : py::object(py::int_(number));
}
py::object LossOrNone(double loss) { return loss < 0 ? py::none() : py::object(py::float_(loss)); }

py::dict StatusDict(const tg::SiteStatus& s) {
  py::dict out;
  out["site"] = s.site;
  out["version"] = s.version;
  out["uid"] = s.uid;
  out["job"] = s.job[0] == '\0' ? py::none() : py::object(py::str(s.job));
  out["job_name"] = s.job_name;
  out["job_rounds"] = s.job_rounds;
  out["job_ended"] = s.job_ended != 0;
  out["round"] = NumberOrNone(s.round);
  out["adapter_version"] = NumberOrNone(s.adapter_version);
  out["held_round"] = NumberOrNone(s.held_round);
  out["train_loss"] = LossOrNone(s.train_loss);
  out["heldout_loss"] = LossOrNone(s.heldout_loss);
  out["connected"] = s.connected != 0;
  out["holds"] = s.holds;
  out["open_exports"] = s.open_exports;
  out["local_jobs"] = s.local_jobs;
  out["spool_bytes"] = s.spool_bytes;
  out["epoch"] = s.epoch;
  out["last_event"] = s.last_event;
  return out;
}

py::dict EventDict(const tg::Event& event) {
  py::dict out;
  out["sequence"] = event.sequence;
  out["code"] = event.code;
  out["source"] = event.source;
  out["lost"] = event.lost;
  out["unix_millis"] = event.unix_millis;
  out["arguments"] = py::make_tuple(event.arguments[0], event.arguments[1], event.arguments[2],
                                    event.arguments[3]);
  out["text"] = event.Text();
  return out;
}

py::dict JobEventDict(const tg::JobEvent& event) {
  py::dict out;
  out["kind"] = event.kind;
  out["step"] = event.step;
  out["total_steps"] = event.total_steps;
  out["loss"] = event.loss;
  out["learning_rate"] = event.learning_rate;
  out["tokens_per_second"] = event.tokens_per_second;
  out["heldout_loss"] = event.heldout_loss;
  out["exit_code"] = event.exit_code;
  out["signal"] = event.signal;
  out["text"] = py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
      event.said.data(), static_cast<Py_ssize_t>(event.said.size()), "replace"));
  return out;
}

py::dict FederatedJobDict(const tg::FederatedJob& job) {
  py::dict out;
  out["id"] = job.id;
  out["name"] = job.name;
  out["state"] = job.state;
  out["version"] = job.version;
  out["rounds"] = job.rounds;
  out["ended"] = job.ended != 0;
  out["open_round"] = NumberOrNone(job.open_round);
  out["accepted"] = job.accepted;
  out["sites"] = job.sites;
  out["parameters"] = job.parameters;
  return out;
}

template <typename T, typename F>
py::list ListOf(const std::vector<T>& items, F&& dict) {
  py::list out;
  for (const T& item : items) out.append(dict(item));
  return out;
}

tg::JobSpec SpecOf(uint32_t verb, const std::string& flags, const std::string& data,
                   const std::string& eval_data) {
  return {static_cast<tg::Verb>(verb), flags, data, eval_data};
}

void BindSite(py::module_& m) {
  using tg::Call;
  using tg::Site;
  py::class_<Site> site(m, "Site");
  const auto plain = [&site](const char* name, tg::Status (Site::*ask)(const Call&) const) {
    site.def(
        name,
        [ask](const Site& s, double t) { Once(t, [&](const Call& c) { return (s.*ask)(c); }); },
        py::arg("timeout"));
  };
  m.def("connect", [](const std::string& path, double t) {
    return Once(t, [&](const Call& c) { return Site::Connect(path, c); });
  });
  site.def("status", [](const Site& s, double t) {
    return StatusDict(Once(t, [&](const Call& c) { return s.GetStatus(c); }));
  });
  plain("pause", &Site::Pause);
  plain("resume", &Site::Resume);
  plain("stop_job", &Site::StopJob);
  plain("shutdown", &Site::Shutdown);
  site.def("datasets", [](const Site& s, double t) {
    const auto list = Once(t, [&](const Call& c) { return s.Datasets(c); });
    return ListOf(list, [](const tg::Dataset& d) {
      return py::make_tuple(static_cast<uint32_t>(d.kind), d.source, d.bytes, d.path);
    });
  });
  site.def("set_dataset",
           [](const Site& s, uint32_t kind, const std::string& path, bool hand_over, double t) {
             Once(t, [&](const Call& c) {
               return s.SetDataset(static_cast<tg::DatasetKind>(kind), path, hand_over, c);
             });
           });
  site.def("reset_dataset", [](const Site& s, uint32_t kind, double t) {
    Once(t, [&](const Call& c) { return s.ResetDataset(static_cast<tg::DatasetKind>(kind), c); });
  });
  site.def("watch", [](const Site& s, uint64_t epoch, uint64_t after, double t) {
    return Once(t, [&](const Call& c) { return s.WatchFrom(epoch, after, c); });
  });
  site.def("start", [](const Site& s, uint32_t verb, const std::string& flags,
                       const std::string& data, const std::string& eval_data, double t) {
    return Once(t, [&](const Call& c) { return s.Start(SpecOf(verb, flags, data, eval_data), c); });
  });
  site.def("adapters", [](const Site& s, double t) {
    const auto list = Once(t, [&](const Call& c) { return s.Adapters(c); });
    return ListOf(list, [](const tg::Adapter& a) {
      return py::make_tuple(a.kept, a.name, a.bytes, a.unix_millis);
    });
  });
  site.def("save_adapter",
           [](const Site& s, const std::string& name, const std::string& dir, double t) {
             Once(t, [&](const Call& c) { return s.SaveAdapter(name, dir, c); });
           });
  site.def("held", [](const Site& s, double t) {
    return Once(t, [&](const Call& c) { return s.Held(c); });
  });
  site.def("review", [](const Site& s, const std::string& name, double t) {
    return Once(t, [&](const Call& c) { return s.Review(name, c); });
  });
  site.def("decide", [](const Site& s, const std::string& name, bool release,
                        const std::string& reason, double t) {
    Once(t, [&](const Call& c) {
      return release ? s.Release(name, reason, c) : s.Refuse(name, reason, c);
    });
  });
  site.def("ledger", [](const Site& s, double t) {
    return Once(t, [&](const Call& c) { return s.Ledger(c); });
  });
  site.def("save_ledger", [](const Site& s, const std::string& file, double t) {
    Once(t, [&](const Call& c) { return s.SaveLedger(file, c); });
  });
  site.def("verify_ledger", [](const Site& s, const std::string& key, double t) {
    return Once(t, [&](const Call& c) { return s.VerifyLedger(key, c); });
  });
  site.def("export_ledger",
           [](const Site& s, const std::string& key, const std::string& dir, double t) {
             return Once(t, [&](const Call& c) { return s.ExportLedger(key, dir, c); });
           });
  site.def("train_rounds", [](const Site& s, double t) {
    return Once(t, [&](const Call& c) { return s.TrainRounds(c); });
  });
}

void BindStreams(py::module_& m) {
  using tg::Call;
  py::class_<tg::Watch>(m, "Watch").def("next", [](const tg::Watch& w, double t) {
    return EventDict(Do(t, [&](const Call& c) { return w.Next(c); }));
  });
  py::class_<tg::LocalJob>(m, "LocalJob")
      .def("next",
           [](const tg::LocalJob& j, double t) {
             return JobEventDict(Do(t, [&](const Call& c) { return j.Next(c); }));
           })
      .def("stop", [](const tg::LocalJob& j) { Once(10, [&](const Call&) { return j.Stop(); }); });
  m.def("start_finetune", [](const std::string& flags, const std::string& data,
                             const std::string& eval_data, double t) {
    return Once(t, [&](const Call& c) {
      return tg::StartFinetune(SpecOf(TG_VERB_FINETUNE, flags, data, eval_data), c);
    });
  });
  py::class_<tg::Rounds>(m, "Rounds")
      .def("next",
           [](const tg::Rounds& r, const std::string& dir, double t) {
             const tg::Round round = Do(t, [&](const Call& c) { return r.Next(dir, c); });
             return py::make_tuple(round.round, round.adapter_version, round.local_steps,
                                   round.norm_clip, round.job);
           })
      .def("submit",
           [](const tg::Rounds& r, const std::string& dir, uint32_t weight, double train_loss,
              double heldout_loss, double t) {
             Do(t, [&](const Call& c) {
               return r.Submit(dir, {weight, train_loss, heldout_loss}, c);
             });
           })
      .def("result", [](const tg::Rounds& r, double t) {
        const tg::Verdict v = Do(t, [&](const Call& c) { return r.Await(c); });
        return py::make_tuple(v.round, v.released, v.abandoned, v.reason);
      });
}

void BindCoordinator(py::module_& m) {
  using tg::Call;
  using tg::Coordinator;
  m.def("open_coordinator", [](const std::string& dir) {
    return Once(10, [&](const Call&) { return Coordinator::Open(dir); });
  });
  py::class_<Coordinator>(m, "Coordinator")
      .def("jobs",
           [](const Coordinator& k, double t) {
             return ListOf(Once(t, [&](const Call& c) { return k.Jobs(c); }), FederatedJobDict);
           })
      .def("job",
           [](const Coordinator& k, const std::string& job, double t) {
             return FederatedJobDict(Once(t, [&](const Call& c) { return k.Job(job, c); }));
           })
      .def("submit",
           [](const Coordinator& k, const std::string& file, double t) {
             return FederatedJobDict(Once(t, [&](const Call& c) { return k.Submit(file, c); }));
           })
      .def("stop", [](const Coordinator& k, const std::string& job,
                      double t) { Once(t, [&](const Call& c) { return k.Stop(job, c); }); })
      .def("export",
           [](const Coordinator& k, const std::string& job, int64_t version, const std::string& dir,
              double t) { Once(t, [&](const Call& c) { return k.Export(job, version, dir, c); }); })
      .def("sites",
           [](const Coordinator& k, double t) {
             const auto list = Once(t, [&](const Call& c) { return k.Sites(c); });
             return ListOf(list, [](const tg::EnrolledSite& s) {
               return py::make_tuple(s.name, s.connected != 0, s.key, s.bytes_in, s.refused);
             });
           })
      .def("bases",
           [](const Coordinator& k, double t) {
             const auto list = Once(t, [&](const Call& c) { return k.Bases(c); });
             return ListOf(list, [](const tg::PublishedBase& b) {
               return py::make_tuple(b.name, b.version, b.hash, b.bytes, b.patch_bytes, b.licence,
                                     b.created, b.expires, b.revoked != 0, b.manifest);
             });
           })
      .def("rounds", [](const Coordinator& k, const std::string& job, int64_t after, double t) {
        const auto list = Once(t, [&](const Call& c) { return k.RoundsOf(job, after, c); });
        return ListOf(list, [](const tg::RoundEvent& e) {
          return py::make_tuple(e.number, e.event, e.round, e.site, e.weight, e.time);
        });
      });
}

void BindModel(py::module_& m) {
  using tg::Call;
  m.def("open_model", [](const std::string& base, const std::vector<std::string>& adapters,
                         const std::string& name, const std::string& device,
                         const std::string& dtype, unsigned load_in_bits, int threads,
                         int max_new_tokens, const std::string& walls, double t) {
    tg::ModelOptions options;
    options.base = base;
    options.adapters = adapters;
    options.name = name;
    options.device = device;
    options.dtype = dtype;
    options.load_in_bits = load_in_bits;
    options.threads = threads;
    options.max_new_tokens = max_new_tokens;
    options.walls = walls;
    return Long(t, [&](const Call& c) { return tg::Model::Open(options, c); });
  });
  py::class_<tg::Model>(m, "Model")
      .def("names",
           [](const tg::Model& k) { return Once(10, [&](const Call&) { return k.Names(); }); })
      .def("ask",
           [](const tg::Model& k, const std::vector<std::pair<std::string, std::string>>& messages,
              const std::string& text, const std::string& model, int max_new_tokens,
              double temperature, double top_p, int64_t top_k, double repetition_penalty,
              uint64_t seed, const std::vector<std::string>& stop) {
             tg::Question q;
             for (const auto& [role, content] : messages) q.messages.push_back({role, content});
             q.text = text;
             q.model = model;
             q.max_new_tokens = max_new_tokens;
             q.temperature = temperature;
             q.top_p = top_p;
             q.top_k = top_k;
             q.repetition_penalty = repetition_penalty;
             q.seed = seed;
             q.stop = stop;
             return Once(60, [&](const Call&) { return k.Ask(q); });
           });
  py::class_<tg::Answer>(m, "Answer")
      .def("next",
           [](const tg::Answer& a, double t) {
             const tg::AnswerEvent e = Do(t, [&](const Call& c) { return a.Next(c); });
             return py::make_tuple(e.end, e.text, e.prompt_tokens, e.cached_tokens, e.new_tokens);
           })
      .def("cancel",
           [](const tg::Answer& a) { Once(10, [&](const Call&) { return a.Cancel(); }); });
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The C++ API of Tidegate; use the package tidegate.";
  m.def("set_error_type", [](py::object type) { ErrorType() = std::move(type); });
  m.def("code_name", &tg_code_name);
  m.def("version", &tg_version);
  m.def("run_tidegate", [](const std::vector<std::string>& words, double t) {
    return Once(t, [&](const tg::Call& c) { return tg::RunTidegate(words, c); });
  });
  BindStreams(m);
  BindSite(m);
  BindCoordinator(m);
  BindModel(m);
}
