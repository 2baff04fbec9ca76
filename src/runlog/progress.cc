#include "runlog/progress.h"

#include <fcntl.h>

#include <cerrno>
#include <cmath>

#include "base/json.h"

namespace tidegate::runlog {
namespace {

using nlohmann::ordered_json;

// The lines of a stopped run that a resume from `last_step` keeps.
Result<std::string> KeptLines(const std::filesystem::path& path, int64_t last_step) {
  const Result<std::string> text = ReadTextFile(path, kMaxMetricsBytes);
  if (!text && text.error().code() == Code::kNotFound) return std::string();
  if (!text) return Unexpected(text.error());
  std::string kept;
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = text->find('\n', begin);
    if (end == std::string::npos) break;  // cut short by a kill
    const std::string_view line(text->data() + begin, end - begin);
    begin = end + 1;
    const auto json = ParseStrictJson(line, {}, path.native());
    if (!json || !json->is_object()) continue;
    const auto step = json->find("step");
    if (step != json->end() && step->is_number_integer() && step->get<int64_t>() > last_step) {
      break;
    }
    kept.append(line).push_back('\n');
  }
  return kept;
}

}  // namespace

Result<MetricsFile> MetricsFile::Open(const std::filesystem::path& path, int64_t last_step) {
  std::string kept;
  if (last_step > 0) {
    TG_ASSIGN_OR_RETURN(kept, KeptLines(path, last_step));
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(path, AsBytes(kept)));
  Fd fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", path.native(), errno));
  return MetricsFile(std::move(fd), path.native());
}

Status MetricsFile::Write(const ordered_json& line) {
  const std::string text = line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  return WriteAll(fd_.get(), AsBytes(text), name_);
}

ordered_json StepLine(const train::StepResult& step) {
  ordered_json line;
  line["event"] = "step";
  line["step"] = step.step;
  line["epoch"] = step.epoch;
  line["loss"] = step.loss;
  line["learning_rate"] = step.learning_rate;
  line["grad_norm"] = step.grad_norm;
  line["tokens"] = step.tokens;
  line["targets"] = step.targets;
  line["tokens_per_second"] =
      step.seconds > 0 ? std::round(static_cast<double>(step.tokens) / step.seconds) : 0.0;
  line["skipped"] = step.skipped;
  return line;
}

std::string FormatSeconds(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  if (s >= 3600) return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
  if (s >= 60) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}s", s);
}

ProgressLine::ProgressLine(std::FILE* out, bool terminal, int64_t total_steps,
                           int64_t logging_steps)
    : out_(out), terminal_(terminal), total_steps_(total_steps), logging_steps_(logging_steps) {}

std::string ProgressLine::Text(const train::StepResult& step, double loss) const {
  const double left = static_cast<double>(total_steps_ - step.step) * seconds_per_step_;
  return fmt::format("step {}/{}  loss {:.4f}  lr {:.2e}  norm {:.3f}  {:.0f} tokens/s  ETA {}",
                     step.step, total_steps_, loss, step.learning_rate, step.grad_norm,
                     tokens_per_second_, FormatSeconds(left));
}

void ProgressLine::Step(const train::StepResult& step) {
  loss_sum_ += step.loss * static_cast<double>(step.targets);
  targets_ += step.targets;
  const double speed =
      step.seconds > 0 ? static_cast<double>(step.tokens) / step.seconds : tokens_per_second_;
  const bool first = seconds_per_step_ == 0;
  seconds_per_step_ = first ? step.seconds : 0.9 * seconds_per_step_ + 0.1 * step.seconds;
  tokens_per_second_ = first ? speed : 0.9 * tokens_per_second_ + 0.1 * speed;
  const bool due = step.step % logging_steps_ == 0 || step.step == total_steps_;
  if (!due && !terminal_) return;
  const double loss = targets_ > 0 ? loss_sum_ / static_cast<double>(targets_) : 0.0;
  const std::string text = Text(step, loss);
  std::fprintf(out_, terminal_ ? "\r%s\033[K" : "%s\n", text.c_str());
  open_line_ = terminal_;
  std::fflush(out_);
  if (due) {
    loss_sum_ = 0;
    targets_ = 0;
  }
}

void ProgressLine::Note(const std::string& text) {
  std::fprintf(out_, open_line_ ? "\r%s\033[K\n" : "%s\n", text.c_str());
  open_line_ = false;
  std::fflush(out_);
}

void ProgressLine::Finish() {
  if (open_line_) std::fputc('\n', out_);
  open_line_ = false;
  std::fflush(out_);
}

}  // namespace tidegate::runlog
