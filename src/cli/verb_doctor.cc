// doctor: what this machine offers to training, and what is missing, before it matters.
#include <fmt/format.h>

#include <filesystem>

#include "base/available_memory.h"
#include "cli/base_memory.h"
#include "cli/machine.h"
#include "cli/verb.h"
#include "kernels/table.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kIdleEnough = 90;  // percent

ordered_json CpuFacts() {
  using kernels::Backend;
  using kernels::DType;
  const kernels::KernelTable* f32 = kernels::TableFor(Backend::kCpu, DType::kF32);
  const kernels::KernelTable* bf16 = kernels::TableFor(Backend::kCpu, DType::kBF16);
  ordered_json cpu;
  cpu["model"] = CpuModel();
  cpu["features"] = CpuFeatures();
  cpu["usable_cpus"] = UsableCpus();
  cpu["cgroup_cpus"] = CgroupCpus();
  cpu["f32_kernels"] = f32 != nullptr ? f32->isa : "none";
  cpu["bf16_kernels"] = bf16 != nullptr ? bf16->isa : "none";
  return cpu;
}

ordered_json GpuFacts() {
  const kernels::KernelTable* table =
      kernels::TableFor(kernels::Backend::kCuda, kernels::DType::kF32);
  if (table == nullptr) return {{"kernels", "none"}, {"reason", kernels::WhyNoCuda()}};
  ordered_json gpu = {{"kernels", table->isa}};
  try {
    gpu["available_mib"] = static_cast<double>(table->device->free_bytes()) / kMiB;
  } catch (const kernels::DeviceError& error) {
    gpu["reason"] = error.what();
  }
  return gpu;
}

std::string GpuText(const ordered_json& gpu) {
  std::string out = fmt::format("gpu        {}", gpu["kernels"].get<std::string>());
  if (gpu.contains("available_mib")) {
    out += fmt::format(", {:.0f} MiB free", gpu["available_mib"].get<double>());
  }
  if (gpu.contains("reason")) out += fmt::format(" ({})", gpu["reason"].get<std::string>());
  return out + '\n';
}

ordered_json ZmqJson() {
  const auto zmq = FindZmq();
  if (!zmq) return {{"found", false}, {"problem", zmq.error().message()}};
  return {{"found", true}, {"version", zmq->version}, {"curve", zmq->curve}};
}

std::string JoinWords(const std::vector<std::string>& words) {
  return words.empty() ? "none" : fmt::format("{}", fmt::join(words, ", "));
}

// By wall: the roles that have it, and why others do not.
struct WallLine {
  std::string name;
  bool demanded = false;
  std::vector<std::string> up;
  std::vector<std::pair<std::string, std::vector<std::string>>> lacking;  // reason, roles
};

std::vector<WallLine> LinesOf(const ordered_json& roles) {
  std::vector<WallLine> lines;
  for (int i = 0; i < onshore::kWallCount; ++i) {
    WallLine line;
    line.name = onshore::WallName(static_cast<onshore::Wall>(i));
    for (const auto& role : roles) {
      for (const auto& wall : role["walls"]) {
        if (wall["name"] != line.name) continue;
        line.demanded = wall["demanded"].get<bool>();
        const std::string name = role["role"].get<std::string>();
        if (wall["state"] == "up") {
          line.up.push_back(name);
          continue;
        }
        const std::string reason =
            wall["reason"].get<std::string>() + "; " + wall["remedy"].get<std::string>();
        if (line.lacking.empty() || line.lacking.back().first != reason) {
          line.lacking.push_back({reason, {}});
        }
        line.lacking.back().second.push_back(name);
      }
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string WallText(const ordered_json& roles) {
  std::string out;
  for (const WallLine& line : LinesOf(roles)) {
    out += fmt::format("wall       {:<14} {}\n", line.name, JoinWords(line.up));
    for (const auto& [reason, names] : line.lacking) {
      out += fmt::format("  not      {:<14} {}: {}\n", "", JoinWords(names), reason);
    }
  }
  for (const auto& role : roles) {
    if (!role.contains("tries")) continue;
    const auto& tries = role["tries"];
    out += fmt::format("tries      {:<14} {} refused, {} absent, {} open\n",
                       role["role"].get<std::string>(), tries["refused"].get<size_t>(),
                       tries["absent"].get<size_t>(), tries["open"].size());
  }
  return out;
}

void AddWallProblems(const ordered_json& roles, ordered_json& problems) {
  for (const WallLine& line : LinesOf(roles)) {
    for (const auto& [reason, names] : line.lacking) {
      if (!line.demanded) continue;
      problems.push_back(
          fmt::format("the wall {} is missing for {}: {}", line.name, JoinWords(names), reason));
    }
  }
  for (const auto& role : roles) {
    const std::string name = role["role"].get<std::string>();
    if (role.contains("error")) {
      problems.push_back(fmt::format("{} cannot start behind its walls: {}", name,
                                     role["error"].get<std::string>()));
    }
    if (role.contains("tries") && !role["tries"]["open"].empty()) {
      problems.push_back(
          fmt::format("the walls of {} do not hold, {} got through: a site does not start here",
                      name, JoinWords(role["tries"]["open"].get<std::vector<std::string>>())));
    }
  }
}

void AddProblems(ordered_json& report) {
  ordered_json problems = ordered_json::array();
  if (report.contains("idle_percent") && report["idle_percent"].get<double>() < kIdleEnough) {
    problems.push_back(fmt::format(
        "the CPUs are only {:.0f} % idle: training and timings will be slower than they can be",
        report["idle_percent"].get<double>()));
  }
  if (report["cpu"]["bf16_kernels"] == "none") {
    problems.push_back(
        "no bf16 kernels for this CPU: --dtype auto trains in f32, with twice the "
        "memory for weights");
  }
  AddWallProblems(report["walls"], problems);
  if (!report["zmq"].value("curve", false)) {
    problems.push_back("libzmq with CURVE was not found: this machine can train but not federate");
  }
  if (report.contains("base") && report.contains("available_mib")) {
    const double least = report["base"]["ways"].back()["total_mib"].get<double>();
    if (least > report["available_mib"].get<double>()) {
      problems.push_back(fmt::format(
          "training on the base takes at least {:.0f} MiB, {:.0f} are free: choose a shorter "
          "--max_length or a smaller base",
          least, report["available_mib"].get<double>()));
    }
  }
  report["problems"] = problems;
}

std::string Text(const ordered_json& report) {
  const ordered_json& cpu = report["cpu"];
  std::string out = fmt::format("cpu        {}\n", cpu["model"].get<std::string>());
  std::string features;
  for (const auto& f : cpu["features"]) features += f.get<std::string>() + " ";
  out += fmt::format("features   {}\n", features.empty() ? "none that matter" : features);
  out += fmt::format("kernels    f32: {}, bf16: {}\n", cpu["f32_kernels"].get<std::string>(),
                     cpu["bf16_kernels"].get<std::string>());
  out += fmt::format("threads    {} usable CPUs", cpu["usable_cpus"].get<int>());
  if (const double quota = cpu["cgroup_cpus"].get<double>(); quota > 0) {
    out += fmt::format(", the control group allows {:.1f}", quota);
  }
  out += '\n';
  if (report.contains("available_mib")) {
    out += fmt::format("memory     {:.0f} MiB free\n", report["available_mib"].get<double>());
  }
  if (report.contains("idle_percent")) {
    out += fmt::format("idle       {:.0f} %\n", report["idle_percent"].get<double>());
  }
  out += GpuText(report["gpu"]);
  out += WallText(report["walls"]);
  const ordered_json& zmq = report["zmq"];
  out += fmt::format("libzmq     {}\n",
                     zmq["found"].get<bool>()
                         ? fmt::format("{}, CURVE {}", zmq["version"].get<std::string>(),
                                       zmq["curve"].get<bool>() ? "yes" : "no")
                         : zmq["problem"].get<std::string>());
  if (report.contains("base")) {
    out += BaseMemoryText(report["base"], report.value("available_mib", -1.0));
  }
  for (const auto& problem : report["problems"]) {
    out += "problem    " + problem.get<std::string>() + "\n";
  }
  return out + (report["problems"].empty() ? "all good\n" : "");
}

struct DoctorOptions {
  std::filesystem::path base;
  RunShape shape;
};

Status Run(const Invocation& invocation, const DoctorOptions& options) {
  ordered_json report, base;
  // First: what is asked wrongly is told before a second of looking at the machine.
  if (!options.base.empty()) {
    TG_ASSIGN_OR_RETURN(base, BaseMemory(options.base, options.shape));
  }
  report["cpu"] = CpuFacts();
  if (const auto bytes = AvailableMemory()) {
    report["available_mib"] = static_cast<double>(*bytes) / kMiB;
  }
  if (const auto idle = IdlePercent(1000)) report["idle_percent"] = *idle;
  TG_ASSIGN_OR_RETURN(report["walls"], ProbeWalls());
  // After the probes: a driver that runs does not outlive a fork.
  report["gpu"] = GpuFacts();
  report["zmq"] = ZmqJson();
  if (!options.base.empty()) report["base"] = std::move(base);
  AddProblems(report);
  return Print(invocation, report, Text);
}

}  // namespace

void RegisterDoctorVerb(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* verb =
      AddVerb(app, "doctor", "What this machine offers to training, and what is missing",
              invocation, [&invocation, options] { return Run(invocation, *options); });
  CLI::Option* base = verb->add_option("--base", options->base,
                                       "Also say what training on this base takes in memory");
  RunShape& shape = options->shape;
  verb->add_option("--max_length,--max-length", shape.max_length, "With --base: tokens a row")
      ->needs(base)
      ->capture_default_str();
  verb->add_option("--per_device_train_batch_size,--per-device-train-batch-size",
                   shape.per_device_train_batch_size, "With --base: rows a micro-batch")
      ->needs(base)
      ->capture_default_str();
  verb->add_option("--lora_r,--lora-r", shape.lora_r, "With --base: rank")
      ->needs(base)
      ->capture_default_str();
}

}  // namespace tidegate::cli
