#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace tidegate::train {
namespace {

bool IsBeta(double beta) { return beta >= 0 && beta < 1; }

}  // namespace

Status CheckAdamW(const AdamWConfig& config) {
  if (!IsBeta(config.beta1) || !IsBeta(config.beta2)) {
    return InvalidArgument("adam_beta1 {} and adam_beta2 {} must be in [0, 1)", config.beta1,
                           config.beta2);
  }
  if (!(config.eps > 0) || !std::isfinite(config.eps)) {
    return InvalidArgument("adam_epsilon {} must be above 0", config.eps);
  }
  if (!(config.weight_decay >= 0) || !std::isfinite(config.weight_decay)) {
    return InvalidArgument("weight_decay {} must be 0 or above", config.weight_decay);
  }
  if (!(config.max_grad_norm >= 0) || !std::isfinite(config.max_grad_norm)) {
    return InvalidArgument("max_grad_norm {} must be above 0, or 0 for no clipping",
                           config.max_grad_norm);
  }
  return OkStatus();
}

Optimizer::Optimizer(const kernels::KernelTable* kernels, int threads, const AdamWConfig& config)
    : kernels_(kernels),
      config_(config),
      workspace_(std::make_unique<kernels::Workspace>()),
      context_{threads, workspace_.get()} {}

Result<Optimizer> Optimizer::Create(const kernels::KernelTable* kernels, int threads,
                                    const AdamWConfig& config) {
  TG_RETURN_IF_ERROR(CheckAdamW(config));
  if (kernels == nullptr || kernels->adamw == nullptr || kernels->sum_squares == nullptr) {
    return Unsupported("the chosen kernel backend has no AdamW; use the cpu backend");
  }
  if (kernels::GradType(kernels->dtype) != kernels::DType::kF32) {
    return Unsupported("the optimizer keeps float masters; the {} table has others", kernels->isa);
  }
  if (threads < 1) return InvalidArgument("threads {} must be 1 or more", threads);
  return Optimizer(kernels, threads, config);
}

double Optimizer::GradNorm(std::span<const float> gradients, std::span<const Range> ranges) {
  double total = 0;
  for (const Range& range : ranges) {
    double sum = 0;
    kernels_->sum_squares(context_,
                          {range.end - range.begin, gradients.data() + range.begin, &sum});
    total += sum;
  }
  return std::sqrt(total);
}

void Optimizer::Update(std::span<float> parameters, std::span<const float> gradients,
                       std::span<const Range> ranges, double grad_norm, double lr, Moments& moments,
                       size_t part) {
  const double clip =
      config_.max_grad_norm > 0 ? std::min(1.0, config_.max_grad_norm / (grad_norm + 1e-6)) : 1.0;
  ++moments.updates[part];
  for (const Range& range : ranges) {
    kernels::AdamWArgs args;
    args.count = range.end - range.begin;
    args.p = parameters.data() + range.begin;
    args.g = gradients.data() + range.begin;
    args.m = moments.m.data() + range.begin;
    args.v = moments.v.data() + range.begin;
    args.grad_scale = clip;
    args.lr = lr;
    args.beta1 = config_.beta1;
    args.beta2 = config_.beta2;
    args.eps = config_.eps;
    args.weight_decay = config_.weight_decay;
    args.step = moments.updates[part];
    kernels_->adamw(context_, args);
  }
}

}  // namespace tidegate::train
