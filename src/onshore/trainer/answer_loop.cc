#include "onshore/trainer/answer_loop.h"

#include <algorithm>

#include "finetune/evaluate.h"
#include "model/memory_plan.h"
#include "onshore/trainer/prompts.h"

namespace tidegate::trainer {

using onshore::AnswerEvent;
using onshore::Ask;

namespace {

// Conversations whose keys and values are kept a model, for when they go on.
constexpr size_t kKept = 4;

}  // namespace

std::string StopFilter::Push(std::string_view piece) {
  if (stops_.empty()) return std::string(piece);
  held_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    std::string out = held_.substr(0, first);
    held_.clear();
    return out;
  }
  // The longest end that is a beginning of a stop text stays.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopFilter::Flush() { return std::exchange(held_, {}); }

struct AnswerLoop::Sequence {
  Sequence(const Ask& asked, model::GenerateOptions how, const model::Tokenizer& tokenizer,
           model::KvCache own)
      : ask(asked),
        options(std::move(how)),
        chooser(options),
        decoder(tokenizer),
        filter(asked.stop),
        cache(std::move(own)) {}
  Ask ask;
  model::GenerateOptions options;
  model::TokenChooser chooser;
  model::StreamDecoder decoder;
  StopFilter filter;
  model::KvCache cache;
  std::vector<int32_t> prompt;
  uint64_t bytes = 0;  // reserved for it
  int64_t cached = 0, chosen = 0;
  int32_t next = 0;  // to be fed
  bool cancelled = false;
};

struct AnswerLoop::Kept {
  model::KvCache cache;
  uint64_t bytes = 0;
  uint64_t number = 0;  // the lowest is the oldest, of all models
};

struct AnswerLoop::Model {
  std::unique_ptr<model::Engine> engine;
  std::vector<std::unique_ptr<Sequence>> active;
  std::deque<Kept> kept;  // the latest last
};

AnswerLoop::AnswerLoop(const finetune::LoadedBase& base, const AnswerLimits& limits, Emit emit)
    : base_(base), limits_(limits), emit_(std::move(emit)) {}
AnswerLoop::~AnswerLoop() = default;

Status AnswerLoop::AddModel(const std::string& name, const std::filesystem::path& adapter) {
  auto model = std::make_unique<Model>();
  TG_ASSIGN_OR_RETURN(model->engine, finetune::MakeEngine(base_, adapter));
  if (!models_.emplace(name, std::move(model)).second) {
    return InvalidArgument("two models are named {}: give each --adapter a name of its own", name);
  }
  return OkStatus();
}

std::vector<std::string> AnswerLoop::models() const {
  std::vector<std::string> names;
  for (const auto& [name, model] : models_) names.push_back(name);
  return names;
}

bool AnswerLoop::busy() const {
  return !waiting_.empty() || std::any_of(models_.begin(), models_.end(), [](const auto& entry) {
    return !entry.second->active.empty();
  });
}

Status AnswerLoop::Refuse(uint64_t id, const Status& status) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kError;
  event.id = id;
  event.code = status.code();
  event.text = status.message();
  return emit_(event);
}

Status AnswerLoop::Take(const onshore::Command& command) {
  const uint64_t id = command.ask.id;
  if (command.cancel) {
    for (const auto& [name, model] : models_) {
      for (const auto& sequence : model->active) sequence->cancelled |= sequence->ask.id == id;
    }
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(),
                                    [id](const Ask& ask) { return ask.id == id; });
    if (waits == waiting_.end()) return OkStatus();
    waiting_.erase(waits);
    return Refuse(id, Cancelled("the question was taken back"));
  }
  if (!models_.contains(command.ask.model)) {
    return Refuse(id, NotFound("there is no model {}", command.ask.model));
  }
  if (waiting_.size() >= limits_.waiting) {
    return Refuse(id,
                  ResourceExhausted("{} questions wait already: ask again later", limits_.waiting));
  }
  waiting_.push_back(command.ask);
  return OkStatus();
}

Result<std::unique_ptr<AnswerLoop::Sequence>> AnswerLoop::Prepare(const Ask& ask, Model& model) {
  Prompt prompt;
  prompt.where = "the question";
  prompt.text = ask.text;
  for (const onshore::Turn& turn : ask.messages) {
    prompt.messages.push_back({turn.role, turn.content});
  }
  if (!ask.messages.empty() && !base_.chat) {
    return InvalidArgument("the model has no chat template: it continues texts");
  }
  TG_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                      EncodePrompt(base_, prompt, {.system = "", .raw = ask.messages.empty()}));
  model::GenerateOptions options;
  options.max_new_tokens = ask.max_new_tokens > 0 ? ask.max_new_tokens : limits_.default_new_tokens;
  options.temperature = ask.temperature;
  options.top_k = ask.top_k;
  options.top_p = ask.top_p;
  options.repetition_penalty = ask.repetition_penalty;
  options.seed = ask.seed;
  options.stop_ids = base_.stop_ids;
  options.vocab_limit = base_.tokenizer->vocab_size();
  TG_RETURN_IF_ERROR(model::CheckGenerateOptions(options));
  const int64_t positions = std::min(static_cast<int64_t>(ids.size()) + options.max_new_tokens,
                                     base_.config.max_positions);
  const kernels::DType dtype = base_.base->compute().dtype;
  const uint64_t least = model::KvCache::BytesFor(base_.config, dtype, positions);
  if (least > limits_.free_bytes || reserved_ > limits_.free_bytes - least) {
    return ResourceExhausted(
        "keys and values of {} tokens do not fit in memory beside the other answers: ask for fewer "
        "new tokens, or later",
        positions);
  }
  // The kept conversation that begins most alike.
  auto best = model.kept.end();
  size_t common = 0;
  for (auto it = model.kept.begin(); it != model.kept.end(); ++it) {
    const std::span<const int32_t> old = it->cache.ids();
    const auto [end, other] = std::mismatch(old.begin(), old.end(), ids.begin(), ids.end());
    const auto length = static_cast<size_t>(end - old.begin());
    if (best == model.kept.end() || length > common) {
      best = it;
      common = length;
    }
  }
  model::KvCache cache = model.engine->NewCache();
  uint64_t bytes = least;
  // One that was longer has all of its room still: where that is too much, it is computed again.
  if (common > 0 && best->bytes <= limits_.free_bytes - reserved_) {
    bytes = std::max(bytes, best->bytes);
    kept_bytes_ -= best->bytes;
    cache = std::move(best->cache);
    model.kept.erase(best);
  } else {
    common = 0;
  }
  MakeRoom(bytes);
  auto sequence =
      std::make_unique<Sequence>(ask, std::move(options), *base_.tokenizer, std::move(cache));
  // The last token is always fed: its logits begin the answer.
  sequence->cached = static_cast<int64_t>(std::min(common, ids.size() - 1));
  sequence->cache.Truncate(sequence->cached);
  sequence->cache.Reserve(positions);
  sequence->prompt = std::move(ids);
  sequence->bytes = bytes;
  return sequence;
}

Status AnswerLoop::Begin(Model& model, std::unique_ptr<Sequence> sequence) {
  const auto rest =
      std::span<const int32_t>(sequence->prompt).subspan(static_cast<size_t>(sequence->cached));
  const auto logits = model.engine->Append(sequence->cache, rest);
  if (!logits) return Refuse(sequence->ask.id, logits.error());
  reserved_ += sequence->bytes;
  Sequence& begun = *model.active.emplace_back(std::move(sequence));
  TG_ASSIGN_OR_RETURN(const bool goes_on, Choose(begun, *logits));
  if (!goes_on) model.active.pop_back();
  return OkStatus();
}

// Conversations that are kept are memory too: the oldest go for an answer on its way.
void AnswerLoop::MakeRoom(uint64_t bytes) {
  while (kept_bytes_ > limits_.free_bytes - reserved_ - bytes) {
    Model* oldest = nullptr;
    for (const auto& [name, model] : models_) {
      if (model->kept.empty()) continue;
      if (oldest == nullptr || model->kept.front().number < oldest->kept.front().number) {
        oldest = model.get();
      }
    }
    DropOldest(*oldest);
  }
}

void AnswerLoop::DropOldest(Model& model) {
  kept_bytes_ -= model.kept.front().bytes;
  model.kept.pop_front();
}

void AnswerLoop::Keep(Model& model, Sequence& sequence) {
  reserved_ -= sequence.bytes;
  kept_bytes_ += sequence.bytes;
  model.kept.push_back({std::move(sequence.cache), sequence.bytes, ++kept_number_});
  if (model.kept.size() > kKept) DropOldest(model);
}

Status AnswerLoop::End(Model& model, Sequence& sequence, std::string_view reason) {
  AnswerEvent event;
  event.id = sequence.ask.id;
  event.text = sequence.filter.Push(sequence.decoder.Flush());
  if (!sequence.filter.stopped()) event.text += sequence.filter.Flush();
  if (!event.text.empty()) TG_RETURN_IF_ERROR(emit_(event));
  event.kind = AnswerEvent::Kind::kEnd;
  event.text = reason;
  event.prompt_tokens = static_cast<int64_t>(sequence.prompt.size());
  event.cached_tokens = sequence.cached;
  event.new_tokens = sequence.chosen;
  Keep(model, sequence);
  return emit_(event);
}

Result<bool> AnswerLoop::Choose(Sequence& sequence, std::span<float> logits) {
  Model& model = *models_.at(sequence.ask.model);
  const auto end = [&](std::string_view reason) -> Result<bool> {
    TG_RETURN_IF_ERROR(End(model, sequence, reason));
    return false;
  };
  if (sequence.cancelled) return end("cancelled");
  const auto id =
      sequence.chooser.Choose(logits, sequence.cache.ids(), static_cast<uint64_t>(sequence.chosen));
  if (!id) {
    Keep(model, sequence);
    TG_RETURN_IF_ERROR(Refuse(sequence.ask.id, id.error()));
    return false;
  }
  const auto& stops = sequence.options.stop_ids;
  if (std::find(stops.begin(), stops.end(), *id) != stops.end()) return end("stop");
  ++sequence.chosen;
  sequence.next = *id;
  AnswerEvent event;
  event.id = sequence.ask.id;
  event.text = sequence.filter.Push(sequence.decoder.Push(*id).value_or(""));
  if (!event.text.empty()) TG_RETURN_IF_ERROR(emit_(event));
  if (sequence.filter.stopped()) return end("stop");
  if (sequence.chosen == sequence.options.max_new_tokens) return end("length");
  if (sequence.cache.length() == sequence.cache.max_positions()) return end("positions");
  return true;
}

Status AnswerLoop::StepModel(Model& model) {
  std::vector<model::KvCache*> caches;
  std::vector<int32_t> ids;
  for (const auto& sequence : model.active) {
    caches.push_back(&sequence->cache);
    ids.push_back(sequence->next);
  }
  if (caches.empty()) return OkStatus();
  TG_ASSIGN_OR_RETURN(const std::span<float> logits, model.engine->Step(caches, ids));
  const size_t vocab = logits.size() / caches.size();
  std::vector<std::unique_ptr<Sequence>> going;
  std::vector<std::unique_ptr<Sequence>> active = std::exchange(model.active, {});
  for (size_t i = 0; i < active.size(); ++i) {
    TG_ASSIGN_OR_RETURN(const bool goes_on, Choose(*active[i], logits.subspan(i * vocab, vocab)));
    if (goes_on) going.push_back(std::move(active[i]));
  }
  model.active = std::move(going);
  return OkStatus();
}

Status AnswerLoop::Advance() {
  // One question begins a turn, so that a long prompt does not hold up the others twice.
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
    Model& model = *models_.at(it->model);
    if (model.active.size() >= model::kMaxStepSequences) continue;
    const Ask ask = std::move(*it);
    waiting_.erase(it);
    try {
      auto sequence = Prepare(ask, model);
      TG_RETURN_IF_ERROR(sequence ? Begin(model, std::move(*sequence))
                                  : Refuse(ask.id, sequence.error()));
    } catch (const std::bad_alloc&) {
      TG_RETURN_IF_ERROR(Refuse(ask.id, ResourceExhausted("the question does not fit in memory")));
    }
    break;
  }
  for (const auto& [name, model] : models_) TG_RETURN_IF_ERROR(StepModel(*model));
  return OkStatus();
}

}  // namespace tidegate::trainer
