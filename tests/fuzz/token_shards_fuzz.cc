// A token shard and index.json. The first byte says which, and whether a shard's header is given
// its right checksum, so that what lies behind it is reached.
#include "base/checksum.h"
#include "base/file.h"
#include "fuzz.h"
#include "tokens/sharded_tokens.h"

namespace tidegate::fuzz {
namespace {

constexpr tokens::ShardKind kKind{.vocab_size = 500, .tokenizer = 7, .end_of_text = 3};

const Folder& Place() {
  static const Folder folder;
  return folder;
}

tokens::TokenIndex::Entry WriteShard() {
  auto writer = tokens::ShardWriter::Create(Place().path() + "/seed", kKind);
  Require(writer.has_value(), "a shard is begun");
  for (const int count : {4, 1, 9}) {
    Require(writer->Append(std::vector<int32_t>(static_cast<size_t>(count), 300)).ok(), "ids fit");
    writer->EndDocument();
  }
  const auto facts = writer->Finish();
  Require(facts.has_value(), "a shard is ended");
  return {"seed", *facts};
}

void Shard(Bytes bytes, bool make_right) {
  if (make_right && bytes.size() >= 128) {
    StoreLe64(&bytes[120], ChecksumOf(ByteSpan(bytes).first(120)));
  }
  Place().Put("shard", AsText(bytes));
  const auto shard = tokens::Shard::Open(Place().path() + "/shard");
  if (!shard) return;
  std::vector<int32_t> ids(shard->facts().tokens);
  const Status read = shard->Read(0, ids);
  if (read.ok()) {
    for (const int32_t id : ids) {
      Require(id >= 0 && static_cast<uint32_t>(id) < shard->kind().vocab_size, "ids are known");
    }
  }
  Require(shard->DocumentEnd(shard->facts().documents - 1) == ids.size(),
          "the last document ends with the tokens");
  (void)shard->Verify();
}

void Index(std::string_view text) {
  Place().Put(tokens::kTokenIndexName, text);
  const auto index = tokens::ReadTokenIndex(Place().path());
  if (!index) return;
  Require(tokens::WriteTokenIndex(Place().path(), *index).ok(), "what was read is written");
  const auto again = tokens::ReadTokenIndex(Place().path());
  Require(again && again->shards == index->shards && again->kind == index->kind,
          "an index that is written is read");
}

}  // namespace

Target Describe() {
  Target target;
  const tokens::TokenIndex index{kKind, {WriteShard()}, 3};
  const std::string shard = Text(*ReadFile(Place().path() + "/seed", 1 << 20));
  Require(tokens::WriteTokenIndex(Place().path(), index).ok(), "the index is written");
  const auto text = ReadTextFile(Place().path() + "/" + tokens::kTokenIndexName, 1 << 20);
  target.seeds = {'\0' + shard, '\1' + shard, '\2' + *text};
  target.memory_per_byte = 512;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  if (data[0] % 3 == 2) {
    fuzz::Index(AsText({data + 1, size - 1}));
  } else {
    fuzz::Shard(Bytes(data + 1, data + size), data[0] % 3 == 1);
  }
  return 0;
}
