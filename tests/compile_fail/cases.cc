// One attempt each at what the types forbid; see CMakeLists.txt. CASE_CONTROL has all that is
// allowed, with the same includes.
#include <iostream>

#include "base/log.h"
#include "base/onshore.h"
#include "crypto/secret.h"
#include "gate/sealing.h"
#include "permit/cleared.h"
#include "permit/release.h"
#include "protocols/archive.h"

namespace tidegate {

struct Record {
  protocols::BoundedText<64> text;
  template <class A>
  void serialize(A& ar) {
    ar(text);
  }
};
struct Unbounded {
  std::vector<uint8_t> bytes;
  template <class A>
  void serialize(A& ar) {
    ar(bytes);
  }
};

Result<gate::SealedUpdate> Attempt(Onshore<Record>& record, permit::Cleared<Bytes>& cleared,
                                   const protocols::Signed& document,
                                   const protocols::ReleaseManifest& manifest,
                                   const gate::SealContext& context,
                                   const crypto::Secret<32>& secret, Bytes update) {
#if defined(CASE_CONTROL)
  Onshore<Record> moved = std::move(record);
  LogInfo("{}", update.size());
  const Bytes encoded = protocols::Encode(Record{});
  std::cout << moved.reveal().text.text.size() << document.body.size() << manifest.blocks.size()
            << secret.reveal().size() << encoded.size();
  return gate::Seal(std::move(cleared), context);
#elif defined(CASE_PRINT_ONSHORE)
  std::cout << record;
#elif defined(CASE_FORMAT_ONSHORE)
  LogInfo("{}", record);
#elif defined(CASE_COPY_ONSHORE)
  Onshore<Record> copy = record;
#elif defined(CASE_COMPARE_ONSHORE)
  if (record == record) return {};
#elif defined(CASE_ENCODE_ONSHORE)
  const Bytes encoded = protocols::Encode(record);
#elif defined(CASE_MINT_CLEARED)
  permit::Cleared<Bytes> own(update, permit::Binding{});
#elif defined(CASE_COPY_CLEARED)
  permit::Cleared<Bytes> copy = cleared;
#elif defined(CASE_RELEASE_WITHOUT_VERIFY)
  permit::Release release(document, manifest);
#elif defined(CASE_SEAL_BYTES)
  return gate::Seal(update, context);
#elif defined(CASE_PRINT_SECRET)
  std::cout << secret;
#elif defined(CASE_UNBOUNDED_FIELD)
  const Bytes encoded = protocols::Encode(Unbounded{});
#else
#error "no such case"
#endif
  return Internal("not reached");
}

}  // namespace tidegate
