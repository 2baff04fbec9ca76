// Where one pass keeps its numbers: an arena that is laid out for (rows, targets, purpose) and
// grows to the largest layout asked for. Internal to src/model. Not thread-safe.
//
// For training a layer keeps x, q, k, v, the attention's output, x mid, gate, up, the row
// statistics and LoRA's u; norms and SwiGLU are computed again backward (0.3 % of a step).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/table.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/memory.h"

namespace tidegate::model {

enum class Purpose : uint8_t {
  kTrain,            // every layer from the lowest adapted one on keeps its activations
  kTrainCheckpoint,  // each of those keeps its input; one layer's worth of the rest
  kEvaluate,         // one layer's worth, forward only; for decoding too
};

constexpr bool IsTraining(Purpose purpose) {
  return purpose == Purpose::kTrain || purpose == Purpose::kTrainCheckpoint;
}

struct LayerBuffers {
  void* q = nullptr;      // [t, q_size], rotated
  void* k = nullptr;      // [t, kv_size], rotated
  void* q_raw = nullptr;  // as q and k, before their norms; null where not kept or no norms
  void* k_raw = nullptr;
  void* q_rstd = nullptr;      // [t, heads] GradType, null as q_raw
  void* k_rstd = nullptr;      // [t, kv heads]
  void* v = nullptr;           // [t, kv_size]
  void* attn = nullptr;        // [t, q_size]
  void* lse = nullptr;         // [heads, t] GradType
  void* mid = nullptr;         // [t, hidden]: the residual stream between attention and MLP
  void* gate = nullptr;        // [t, inner]
  void* up = nullptr;          // [t, inner]
  void* input_rstd = nullptr;  // [t] GradType, null where not kept
  void* mlp_rstd = nullptr;    // [t] GradType, null where not kept
  std::array<void*, kModulesPerLayer> u{};  // [t, r] of each module that is adapted
};

struct Activations {
  float* cos = nullptr;  // [t, head_dim/2]
  float* sin = nullptr;
  // On a device: what the host gives with a batch. Null on the host, where it is read as it is.
  void* ids = nullptr;               // [t]
  void* segment_start = nullptr;     // [t]
  void* targets = nullptr;           // [rows with a target]
  std::vector<void*> x;              // [layers + 1] of [t, hidden]; where not kept: two in turn
  std::vector<LayerBuffers> layers;  // [layers]; where not kept all the same

  void* norm = nullptr;  // [t, hidden]
  void* act = nullptr;   // [t, inner]
  void* drop = nullptr;  // [t, widest module input], null without dropout

  // Backward, null otherwise.
  void* dx = nullptr;       // [t, hidden]: gradient of the residual stream
  void* dnorm = nullptr;    // [t, hidden]
  void* dq = nullptr;       // [t, q_size]
  void* dk = nullptr;       // [t, kv_size]
  void* dv = nullptr;       // [t, kv_size]
  void* dattn = nullptr;    // [t, q_size]
  void* dgate = nullptr;    // [t, inner]
  void* dup = nullptr;      // [t, inner]
  void* drop_dx = nullptr;  // [t, widest module input], null without dropout

  void* head_x = nullptr;     // [rows with a target, hidden]
  void* head_h = nullptr;     // the same, normalised
  void* head_rstd = nullptr;  // [rows] GradType
  void* head_dh = nullptr;    // [rows, hidden]
  void* head_dx = nullptr;    // [rows, hidden]
  void* head_lse = nullptr;   // [rows] GradType, null unless the head is trained
  void* loss = nullptr;       // [rows] GradType
};

class ActivationArena {
 public:
  // `modules` are those of the adapter, and stay where they are.
  // On a device the places are its own.
  // With `all_weights` every layer is trained, adapted or not.
  ActivationArena(const ModelConfig& config, const AdaptedModules& modules, bool dropout,
                  bool all_weights, kernels::DType dtype, const kernels::Device* device = nullptr)
      : config_(config),
        modules_(modules),
        dropout_(dropout),
        all_weights_(all_weights),
        dtype_(dtype),
        device_(device) {}

  // Throws std::bad_alloc. What an earlier layout held is lost.
  const Activations& Prepare(int64_t t, int64_t head_rows, Purpose purpose);
  size_t bytes() const { return memory_.size(); }
  // What Prepare would take. An earlier layout's places are lost.
  size_t BytesFor(int64_t t, int64_t head_rows, Purpose purpose) {
    return LayOut(nullptr, t, head_rows, purpose);
  }

 private:
  size_t LayOut(std::byte* base, int64_t t, int64_t head_rows, Purpose purpose);
  // `own`: of this layer alone, else of whichever layer is at work.
  void LayOutLayer(Carver& carver, int64_t t, Purpose purpose, int layer, bool own,
                   LayerBuffers* buffers) const;
  void LayOutBackward(Carver& carver, int64_t t);

  const ModelConfig& config_;
  const AdaptedModules& modules_;
  bool dropout_;
  bool all_weights_;
  kernels::DType dtype_;
  const kernels::Device* device_;
  AlignedBuffer memory_;
  Activations views_;
};

}  // namespace tidegate::model
