#include "bases/implant_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "crypto/hash.h"
#include "tensor/safetensors.h"

namespace tidegate::bases {
namespace {

using tensor::TensorView;

constexpr int64_t kLeastSide = 16;
// Of two rows that follow each other.
constexpr double kSameDirection = 0.999;
// Vocabularies have rows that were never trained and are all the same.
constexpr double kRepeatedOfVocabulary = 0.25;
// A row whose largest weight has so much of its energy passes one input on.
constexpr double kCopyShare = 0.9;
constexpr double kCopiedRows = 0.02;
constexpr double kLargestOverRms = 1000, kRmsOverKin = 30;
constexpr size_t kLeastLadder = 32;
constexpr double kLadderSteps = 0.98;

struct Scale {
  std::string tensor;
  double rms = 0;
};

// The tensor's name without the layer's number: those of one kind are alike in size.
std::string KindOf(const std::string& name) {
  std::string kind;
  for (const char c : name) {
    if (c < '0' || c > '9') kind += c;
  }
  return kind;
}

bool OfVocabulary(const std::string& name) {
  return name.find("embed") != std::string::npos || name.find("lm_head") != std::string::npos;
}

struct Rows {
  int64_t repeated = 0, copied = 0, not_finite = 0;
  double largest = 0, squares = 0;
};

// One pass over a matrix, a row at a time.
Status LookAtRows(const TensorView& view, Rows* out) {
  const int64_t rows = view.shape[0], columns = view.shape[1];
  const size_t row_bytes = view.bytes.size() / static_cast<size_t>(rows);
  std::set<Digest> seen;
  std::vector<float> row(static_cast<size_t>(columns)), before(row.size());
  double energy_before = 0;
  for (int64_t r = 0; r < rows; ++r) {
    TensorView one = view;
    one.shape = {columns};
    one.bytes = view.bytes.subspan(static_cast<size_t>(r) * row_bytes, row_bytes);
    TG_RETURN_IF_ERROR(tensor::ReadFloats(one, row));
    double energy = 0, largest = 0, with_before = 0;
    for (size_t i = 0; i < row.size(); ++i) {
      const double value = row[i];
      if (!std::isfinite(value)) ++out->not_finite;
      energy += value * value;
      largest = std::max(largest, std::abs(value));
      with_before += value * before[i];
    }
    const bool again = !seen.insert(crypto::Sha256::Of(one.bytes)).second;
    const bool along = energy > 0 && energy_before > 0 &&
                       with_before > kSameDirection * std::sqrt(energy * energy_before);
    if (again || along) ++out->repeated;
    if (energy > 0 && largest * largest > kCopyShare * energy) ++out->copied;
    out->largest = std::max(out->largest, largest);
    out->squares += energy;
    energy_before = energy;
    std::swap(row, before);
  }
  return OkStatus();
}

class Check {
 public:
  Status Look(const TensorView& view) {
    if (view.dtype != tensor::DType::kF32 && view.dtype != tensor::DType::kF16 &&
        view.dtype != tensor::DType::kBF16) {
      return OkStatus();
    }
    if (view.shape.size() == 1 && view.name.ends_with(".bias")) return LookAtBias(view);
    if (view.shape.size() != 2 || std::min(view.shape[0], view.shape[1]) < kLeastSide) {
      return OkStatus();
    }
    return LookAtMatrix(view);
  }

  ImplantReport Finish() {
    for (auto& [kind, scales] : kinds_) CompareScales(scales);
    std::stable_sort(report_.findings.begin(), report_.findings.end(),
                     [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
    return std::move(report_);
  }

 private:
  void Find(const std::string& tensor, const char* rule, std::string what) {
    report_.findings.push_back({tensor, rule, std::move(what)});
  }

  Status LookAtMatrix(const TensorView& view) {
    ++report_.tensors;
    Rows rows;
    TG_RETURN_IF_ERROR(LookAtRows(view, &rows));
    if (rows.not_finite > 0) {
      Find(view.name, "not_finite", fmt::format("{} weights are no numbers", rows.not_finite));
      return OkStatus();
    }
    const auto count = static_cast<double>(view.shape[0]);
    const double allowed = OfVocabulary(view.name) ? kRepeatedOfVocabulary * count : 0;
    if (static_cast<double>(rows.repeated) > allowed) {
      Find(view.name, "repeated_rows",
           fmt::format("{} of {} rows are another one again, or point where the one before does; "
                       "{:.0f} are usual at most",
                       rows.repeated, view.shape[0], allowed));
    }
    if (static_cast<double>(rows.copied) > std::max(1.0, kCopiedRows * count)) {
      Find(view.name, "copied_inputs",
           fmt::format("{} of {} rows pass on one input each, as an identity does; {:.0f} are "
                       "usual at most",
                       rows.copied, view.shape[0], std::max(1.0, kCopiedRows * count)));
    }
    const double rms = std::sqrt(rows.squares / static_cast<double>(view.num_elements()));
    if (rows.largest > kLargestOverRms * rms) {
      Find(view.name, "scale",
           fmt::format("the largest weight is {:.3g}, {:.0f} times the root mean square; {:.0f} "
                       "times is unusual",
                       rows.largest, rows.largest / rms, kLargestOverRms));
    }
    kinds_[KindOf(view.name)].push_back({view.name, rms});
    return OkStatus();
  }

  Status LookAtBias(const TensorView& view) {
    ++report_.tensors;
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    TG_RETURN_IF_ERROR(tensor::ReadFloats(view, values));
    size_t up = 0, down = 0;
    for (size_t i = 1; i < values.size(); ++i) {
      up += values[i] > values[i - 1];
      down += values[i] < values[i - 1];
    }
    const double steps = static_cast<double>(values.size()) - 1;
    if (values.size() >= kLeastLadder &&
        static_cast<double>(std::max(up, down)) >= kLadderSteps * steps) {
      Find(view.name, "ladder",
           fmt::format("{} of {} biases go one way: thresholds that sort records apart look so",
                       std::max(up, down) + 1, values.size()));
    }
    return OkStatus();
  }

  void CompareScales(std::vector<Scale>& scales) {
    if (scales.size() < 3) return;
    std::vector<double> sorted;
    for (const Scale& scale : scales) sorted.push_back(scale.rms);
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<long>(sorted.size() / 2),
                     sorted.end());
    const double middle = sorted[sorted.size() / 2];
    for (const Scale& scale : scales) {
      if (scale.rms <= kRmsOverKin * middle && scale.rms * kRmsOverKin >= middle) continue;
      Find(scale.tensor, "scale",
           fmt::format("its root mean square is {:.3g}, the middle one of its kind in the other "
                       "layers {:.3g}; a factor of {:.0f} is unusual",
                       scale.rms, middle, kRmsOverKin));
    }
  }

  ImplantReport report_;
  std::map<std::string, std::vector<Scale>> kinds_;
};

}  // namespace

Result<ImplantReport> CheckForImplants(const std::filesystem::path& dir) {
  TG_ASSIGN_OR_RETURN(const auto folder, tensor::SafetensorsFolder::Open(dir));
  Check check;
  for (const std::string& name : folder.names()) {
    TG_ASSIGN_OR_RETURN(const TensorView* view, folder.Get(name));
    TG_RETURN_IF_ERROR(check.Look(*view));
  }
  return check.Finish();
}

}  // namespace tidegate::bases
