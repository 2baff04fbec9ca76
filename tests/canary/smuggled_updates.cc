#include "tests/canary/smuggled_updates.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "crypto/hash.h"

namespace tidegate::canary {
namespace {

using protocols::UpdateHeader;

UpdateHeader HeaderOf(const RoundFacts& facts) {
  UpdateHeader header;
  header.job = facts.start.job;
  header.round = facts.start.round;
  header.phase = facts.start.phase;
  header.groups = facts.job.phase_groups.items.at(facts.start.phase);
  header.codec = facts.job.codec;
  std::copy_n(facts.site.begin(), std::min(facts.site.size(), header.site.size()),
              header.site.begin());
  header.base_hash = facts.job.base_hash;
  header.layout_digest = crypto::Sha256::Of(protocols::Encode(facts.job.layout));
  header.tensors = static_cast<uint32_t>(facts.job.layout.tensors.size());
  header.values = protocols::UpdateValues(facts.job.layout, header.groups);
  header.weight = 1;
  return header;
}

Bytes UpdateOf(const RoundFacts& facts, const UpdateHeader& header) {
  Bytes update(protocols::UpdateBytes(facts.job.layout, header.groups, facts.job.codec));
  protocols::WriteUpdateHeader(header, update.data());
  return update;
}

Bytes WithHeader(const RoundFacts& facts, const std::function<void(UpdateHeader&)>& change) {
  UpdateHeader header = HeaderOf(facts);
  change(header);
  return UpdateOf(facts, header);
}

template <typename Field>
void Fill(Field& field, const std::string& words) {
  static_assert(std::is_trivially_copyable_v<Field>);
  std::memcpy(&field, words.data(), std::min(sizeof(field), words.size()));
}

// The words in the integers of an int8 update: of B tensors, or of all.
void FillIntegers(const RoundFacts& facts, const std::string& words, float scale, bool all,
                  Bytes* update) {
  size_t at = protocols::kUpdateHeaderBytes, next = 0;
  for (const protocols::LayoutTensor& tensor : facts.job.layout.tensors.items) {
    const size_t count = static_cast<size_t>(tensor.rows) * tensor.cols;
    const size_t groups = (count + protocols::kInt8Group - 1) / protocols::kInt8Group;
    if (all || tensor.group == 1) {
      for (size_t i = 0; i < groups; ++i) std::memcpy(update->data() + at + 4 * i, &scale, 4);
      for (size_t i = 0; i < count; ++i) {
        // A group's largest number is the end of the range, or it is not canonical.
        const bool first = i % protocols::kInt8Group == 0;
        (*update)[at + 4 * groups + i] =
            static_cast<uint8_t>(first ? protocols::kInt8Max : words[next++ % words.size()]);
      }
    }
    at += 4 * groups + (count + 3) / 4 * 4;
  }
}

}  // namespace

Bytes HonestUpdate(const RoundFacts& facts) { return UpdateOf(facts, HeaderOf(facts)); }

Bytes UpdateWithHiddenWords(const RoundFacts& facts, const std::string& words) {
  Bytes update = HonestUpdate(facts);
  FillIntegers(facts, words, kHiddenScale, false, &update);
  return update;
}

std::vector<Smuggled> UpdatesToRefuse(const RoundFacts& facts, const std::string& words) {
  const Bytes honest = HonestUpdate(facts);
  const auto header = [&](const std::function<void(UpdateHeader&)>& change) {
    return WithHeader(facts, change);
  };
  std::vector<Smuggled> all;
  all.push_back({"the words alone", Bytes(words.begin(), words.end())});
  Bytes longer = honest;
  longer.insert(longer.end(), words.begin(), words.end());
  all.push_back({"after the last tensor", std::move(longer)});
  Bytes reserved = honest;
  std::copy_n(words.begin(), 16, reserved.begin() + protocols::kUpdateHeaderBytes - 16);
  all.push_back({"in the reserved bytes", std::move(reserved)});
  all.push_back({"as another tensor", header([](UpdateHeader& h) { ++h.tensors; })});
  all.push_back({"in another codec", header([](UpdateHeader& h) {
                   h.codec = h.codec == protocols::Codec::kInt8 ? protocols::Codec::kFixed32
                                                                : protocols::Codec::kInt8;
                 })});
  all.push_back({"as the site's name", header([&](UpdateHeader& h) { Fill(h.site, words); })});
  all.push_back({"as the job", header([&](UpdateHeader& h) { Fill(h.job, words); })});
  all.push_back({"as the base", header([&](UpdateHeader& h) { Fill(h.base_hash, words); })});
  all.push_back(
      {"as other tensors' names", header([&](UpdateHeader& h) { Fill(h.layout_digest, words); })});
  all.push_back({"as the weight", header([&](UpdateHeader& h) {
                   uint16_t two = 0;
                   Fill(two, words);
                   h.weight = two;
                 })});
  all.push_back({"as the losses", header([&](UpdateHeader& h) { Fill(h.metrics, words); })});
  Bytes large = honest;
  FillIntegers(facts, words, 0.25f, true, &large);
  all.push_back({"as large weights", std::move(large)});
  return all;
}

}  // namespace tidegate::canary
