// A LoRA adapter: the trained parameters of a run, in the layout that PEFT files and updates have.
//
// All tensors lie one after another in one float buffer, in layout order: layer 0 … L−1 (those that
// are adapted), within a layer q, k, v, o, gate, up, down (those that are targets), within a module
// A [r,in] then B [out,r], row-major. The same order for parameters, gradients and moments. Not
// thread-safe.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/config.h"
#include "model/path_pattern.h"

namespace tidegate::model {

// The linear modules of a layer, in layout order.
enum class Module : uint8_t { kQ = 0, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kModulesPerLayer = 7;

// PEFT's rank_pattern and alpha_pattern, an entry: what the modules have in place of r and alpha.
struct RankPattern {
  PathPattern modules;
  int64_t r;
};
struct AlphaPattern {
  PathPattern modules;
  double alpha;
};

struct LoraConfig {
  int64_t r = 8;
  double alpha = 8;
  double dropout = 0.0;
  std::vector<Module> targets;  // sorted, unique
  bool rslora = false;          // scale alpha / sqrt(r)
  // The layers that are adapted, sorted, unique; empty: all. (PEFT's layers_to_transform.)
  std::vector<int64_t> layers;
  // In order: the first entry that matches a module is the module's.
  std::vector<RankPattern> rank_pattern;
  std::vector<AlphaPattern> alpha_pattern;
  double scale() const { return ScaleOf(r, alpha); }
  double ScaleOf(int64_t rank, double its_alpha) const {
    return its_alpha / (rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
  }
  struct OfModule {
    int64_t r;
    double scale;
  };
  // What the patterns make of one module; an error where one of them gives up.
  Result<OfModule> At(int64_t layer, Module module) const;
  bool Targets(Module module) const;
  bool Adapts(int64_t layer) const;
};

inline constexpr int64_t kMaxLoraRank = 4096;

// Refuses r outside 1 … kMaxLoraRank, an alpha that is not finite and above 0, dropout outside
// [0, 1), targets or layers that are unsorted or twice.
Status CheckLora(const LoraConfig& lora);
// Of that, what is about the patterns.
Status CheckPatterns(const LoraConfig& lora);
// CheckLora, layers that the base has, and patterns that can be matched with all its modules.
Status CheckLoraFits(const LoraConfig& lora, const ModelConfig& base);
// Refuses an entry of a pattern that decides nothing, which PEFT passes over: a name misspelt.
Status CheckPatternsAreUsed(const LoraConfig& lora, const ModelConfig& base);

// "q_proj"
std::string_view ModuleName(Module module);
// "self_attn.q_proj", "mlp.down_proj"
std::string ModulePath(Module module);

// Input and output features of a module.
struct ModuleShape {
  int64_t in, out;
};
ModuleShape ShapeOf(const ModelConfig& base, Module module);
// Whether the base's module has a bias, of `out` values.
bool HasBias(const ModelConfig& base, Module module);

// "all-linear", or names as PEFT spells them ("q_proj,v_proj"): unknown names are refused.
Result<std::vector<Module>> ParseTargets(std::string_view text);
// "", for all layers, or numbers from 0 with commas: "0,2,3". Sorted.
Result<std::vector<int64_t>> ParseLayers(std::string_view text);

// A JSON object, as adapter_config.json has it: {"q_proj": 4, "layers.0.mlp.*": 8}. `what` names it
// in errors.
Result<std::vector<RankPattern>> ParseRankPattern(std::string_view json, std::string_view what);
Result<std::vector<AlphaPattern>> ParseAlphaPattern(std::string_view json, std::string_view what);
// The same back, in the same order.
std::string RankPatternJson(const LoraConfig& lora);
std::string AlphaPatternJson(const LoraConfig& lora);

struct AdapterTensor {
  std::string name;  // "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
  int layer;
  Module module;
  bool is_b;
  int64_t rows, cols;  // A: r, in. B: out, r
  double scale;        // of the module: y += scale · B A x
  int64_t offset;      // elements from the start of the buffer
  int64_t count() const { return rows * cols; }
};

// The tensors of an adapter that fits (CheckLoraFits), in layout order.
std::vector<AdapterTensor> AdapterLayout(const ModelConfig& base, const LoraConfig& lora);

// Where a layout has which module of which layer. Thread-safe.
class AdaptedModules {
 public:
  AdaptedModules(const ModelConfig& base, std::span<const AdapterTensor> layout);

  bool Has(int layer, Module module) const { return at(layer, module).rank > 0; }
  // 0 where the module is not adapted.
  int64_t rank(int layer, Module module) const { return at(layer, module).rank; }
  // Of its A in the layout; its B is the next.
  size_t index(int layer, Module module) const { return at(layer, module).index; }
  // The highest rank that the module has in any layer.
  int64_t widest(Module module) const { return widest_[static_cast<size_t>(module)]; }
  // The base's number of layers where none is adapted.
  int lowest_layer() const { return lowest_; }

 private:
  struct Place {
    int64_t rank = 0;
    size_t index = 0;
  };
  const Place& at(int layer, Module module) const {
    return places_[static_cast<size_t>(layer * kModulesPerLayer + static_cast<int>(module))];
  }
  std::vector<Place> places_;
  std::array<int64_t, kModulesPerLayer> widest_{};
  int lowest_;
};

class Adapter {
 public:
  // Parameters as PEFT initialises them: A uniform(−1/sqrt(in), 1/sqrt(in)) from the counter RNG,
  // B zero.
  static Adapter Create(const ModelConfig& base, const LoraConfig& lora, uint64_t seed);

  const LoraConfig& lora() const { return lora_; }
  const std::vector<AdapterTensor>& tensors() const { return tensors_; }
  std::span<float> parameters() { return parameters_; }
  std::span<const float> parameters() const { return parameters_; }

  // All zero: to be filled by a reader of adapters.
  static Adapter CreateZero(const ModelConfig& base, const LoraConfig& lora);

 private:
  LoraConfig lora_;
  std::vector<AdapterTensor> tensors_;
  std::vector<float> parameters_;
};

// PEFT folder: adapter_config.json and adapter_model.safetensors, byte-stable, durable. Reading is
// strict: a missing, unexpected or mis-shaped key is an error that names it; an unsupported feature
// that is switched on is refused by name; r 0 or absurd is refused.
Status SavePeft(const std::filesystem::path& dir, const Adapter& adapter,
                const std::string& base_model_name);
Result<Adapter> LoadPeft(const std::filesystem::path& dir, const ModelConfig& base);

}  // namespace tidegate::model
