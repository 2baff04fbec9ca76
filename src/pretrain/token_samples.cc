#include "pretrain/token_samples.h"

#include <optional>

#include "tokens/sharded_tokens.h"

namespace tidegate::pretrain {
namespace {

class TokenSamples final : public SampleSource {
 public:
  explicit TokenSamples(tokens::ShardedTokens tokens) : tokens_(std::move(tokens)) {}
  Status Open(int64_t length, uint64_t seed, bool shuffled) {
    TG_ASSIGN_OR_RETURN(stream_, tokens::SampleStream::Make(tokens_, length, seed, shuffled));
    return OkStatus();
  }
  int64_t length() const override { return stream_->length(); }
  uint64_t samples_per_epoch() const override { return stream_->samples_per_epoch(); }
  uint64_t fingerprint() const override { return stream_->fingerprint(); }
  int64_t vocab_size() const override { return tokens_.kind().vocab_size; }
  Status Read(uint64_t index, std::span<int32_t> out) override { return stream_->Read(index, out); }

 private:
  tokens::ShardedTokens tokens_;
  std::optional<tokens::SampleStream> stream_;
};

}  // namespace

Result<std::unique_ptr<SampleSource>> OpenSamples(const std::filesystem::path& shards,
                                                  int64_t length, uint64_t seed, bool shuffled) {
  TG_ASSIGN_OR_RETURN(tokens::ShardedTokens tokens, tokens::ShardedTokens::Open(shards));
  auto samples = std::make_unique<TokenSamples>(std::move(tokens));
  TG_RETURN_IF_ERROR(samples->Open(length, seed, shuffled));
  return std::unique_ptr<SampleSource>(std::move(samples));
}

}  // namespace tidegate::pretrain
