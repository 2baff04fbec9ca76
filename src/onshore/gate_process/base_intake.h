// Bases at the gate: what the coordinator has published, and the blocks of the one that the site's
// people ask for. Verified and stored, and no more: nothing is unpacked here.
//
//   DIR/NAME@V.base, .revoked     documents, verified (bases/registry.h)
//   DIR/blocks/                   verified blocks
//   DIR/wanted/NAME@V.full|patch  a person's wish, made by `tidegate base pull`; gone: forget it
//   DIR/answers/NAME@V.full|patch the gate's answer: "done", or "refused: why"
//
// A wish is followed only for a base that policy pins, that has not expired and was not revoked.
// All of it is read again from disk by Open, so a pull goes on where it was. Not thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "bases/registry.h"
#include "blocks/block_store.h"
#include "onshore/gate_process/identity.h"
#include "onshore/ipc/messages.h"

namespace tidegate::onshore {

class BaseIntake {
 public:
  using Refusal = bases::Registry::Refusal;
  using Judged = Result<std::optional<Refusal>>;

  // Errors of it and of all methods are the disk's.
  static Result<BaseIntake> Open(const std::filesystem::path& dir, const GateIdentity& identity,
                                 const Clock& clock);

  // BASE and REVOKE.
  Judged TakeBase(const protocols::Signed& document);
  Judged TakeRevocation(const protocols::Signed& document);
  bool Revoked(const Digest& base_hash) const { return registry_.RevokedHash(base_hash); }

  // Whether blocks of this content are under way.
  bool Wants(const Hash32& content) const;
  Judged TakeBlock(const Hash32& content, uint32_t index, ByteSpan bytes);

  // What is to be asked of the coordinator now; each block once until ForgetAsked.
  std::vector<WantBlocks> Ask();
  // What was under way is lost.
  void ForgetAsked();
  // Follows what people wish by now.
  Status Look();

 private:
  // A content on its way. `sizes` empty: blocks of kBlockBytes, the last one shorter.
  struct Content {
    Digest id{};
    std::vector<Digest> blocks;
    std::vector<uint32_t> sizes;
    uint64_t bytes = 0;
    std::vector<bool> have, asked;
    size_t missing = 0, under_way = 0;
    bool Fits(uint32_t index, size_t size) const;
  };
  struct Pull {
    std::string name;  // of the file in wanted/
    bool patch = false;
    bool lists = true;  // index and patch list come first
    std::vector<Content> contents;
    size_t at = 0;   // contents before it are whole
    size_t bad = 0;  // blocks that were not what they should be
  };

  BaseIntake(std::filesystem::path dir, const GateIdentity& identity, const Clock& clock,
             bases::Registry registry, blocks::BlockStore blocks)
      : dir_(std::move(dir)),
        base_hashes_(identity.policy.base_hashes),
        clock_(&clock),
        registry_(std::move(registry)),
        blocks_(std::move(blocks)) {}

  Result<std::vector<std::string>> Wishes() const;
  Status Start(const std::string& name);
  // Why the wish is not followed; nothing if it is.
  std::optional<std::string> Objection(const bases::Published& base, bool patch) const;
  Status Answer(const std::string& answer);
  // To the next content that is not whole; the lists lead to the blocks, those to the answer.
  Status Advance();
  Status AddBlocks();
  void Add(std::span<const Digest> ids, std::span<const protocols::BaseBlock> sizes,
           uint64_t bytes);
  Status Trim();

  std::filesystem::path dir_;
  std::vector<Digest> base_hashes_;
  const Clock* clock_;
  bases::Registry registry_;
  blocks::BlockStore blocks_;
  std::optional<Pull> pull_;
  bool trimmed_ = false;  // no block is kept that nobody wishes
};

}  // namespace tidegate::onshore
