// Limits of the text inputs that more than one module reads: configurations, tokenizers, templates
// and records. (Limits of the wire are in protocols/limits.h, of tensor files in tensor/limits.h.)
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidegate {

inline constexpr size_t kMaxConfigBytes = 1 << 20;

inline constexpr size_t kMaxTokenizerBytes = 256u << 20;
inline constexpr size_t kMaxVocabulary = 1 << 21;
inline constexpr size_t kMaxMerges = 1 << 22;
inline constexpr size_t kMaxTokenBytes = 4096;
inline constexpr size_t kMaxAddedTokens = 1 << 16;
inline constexpr size_t kMaxPatternBytes = 4096;
inline constexpr size_t kMaxEncodeBytes = 64u << 20;

inline constexpr size_t kMaxTemplateBytes = 1 << 20;
inline constexpr size_t kMaxTemplateNodes = 1 << 17;
inline constexpr int kMaxTemplateDepth = 100;
inline constexpr int64_t kMaxTemplateSteps = 4'000'000;
inline constexpr size_t kMaxTemplateOutputBytes = 64u << 20;
inline constexpr size_t kMaxMessages = 4096;

inline constexpr size_t kMaxRecordLineBytes = 16u << 20;
inline constexpr uint64_t kMaxRecords = 100'000'000;
inline constexpr size_t kMaxBadLinesKept = 100;
inline constexpr int64_t kMaxSequenceLength = 1 << 20;

}  // namespace tidegate
