// A key of PEFT's rank_pattern and alpha_pattern: which modules it means. Thread-safe once made.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

// PCRE2's handle, as its header declares it for 8-bit code units.
struct pcre2_real_code_8;

namespace tidegate::model {

// PEFT's rule (peft.utils.other.get_pattern_key): re.match of "(.*\.)?(KEY)$" on the module's path,
// so that "q_proj" is that of every layer, "layers.1.mlp.up_proj" one module, and "layers.[01]\..*"
// all of two layers. The pattern is run by PCRE2; what Python's re would refuse or read otherwise
// is refused.
class PathPattern {
 public:
  static Result<PathPattern> Compile(std::string_view key);

  const std::string& key() const { return key_; }
  // `path` as "model.layers.0.self_attn.q_proj". kResourceExhausted when the pattern needs more
  // steps than a sensible one.
  Result<bool> Matches(std::string_view path) const;

 private:
  PathPattern(std::string key, std::shared_ptr<pcre2_real_code_8> code)
      : key_(std::move(key)), code_(std::move(code)) {}
  std::string key_;
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace tidegate::model
