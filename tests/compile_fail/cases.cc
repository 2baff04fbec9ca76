// One attempt each at what the types forbid; see CMakeLists.txt. CASE_CONTROL has all that is
// allowed, with the same includes.
#include <iostream>

#include "base/log.h"
#include "base/onshore.h"
#include "crypto/document.h"
#include "gate/ledger.h"
#include "gate/sealing.h"
#include "permit/cleared.h"
#include "permit/release.h"
#include "permit/release_pass.h"
#include "protocols/archive.h"

namespace tidegate {

struct Record {
  protocols::BoundedText<64> text;
  template <class A>
  void serialize(A& ar) {
    ar(text);
  }
};

struct Given {
  Onshore<Record>& record;
  permit::Cleared<gate::Update>& cleared;
  const protocols::Signed& document;
  const protocols::ReleaseManifest& manifest;
  const protocols::Receipt& receipt;
  const gate::SealContext& context;
  const gate::SealedUpdate& sealed;
  gate::Ledger& ledger;
  const crypto::SigningKey& key;
  const permit::Release& release;
  Bytes bytes;
};

#if defined(CASE_CONTROL)
Result<protocols::Signed> Attempt(Given given) {
  Onshore<Record> moved = std::move(given.record);
  LogInfo("{}", given.bytes.size());
  const Bytes encoded = protocols::Encode(Record{});
  std::cout << moved.reveal().text.text.size() << given.document.body.size() << encoded.size();
  constexpr crypto::SignDomain kOther("tidegate/v1/other");
  TG_ASSIGN_OR_RETURN(const protocols::Signed receipt,
                      crypto::SignDocument(given.key, kOther, given.receipt));
  TG_RETURN_IF_ERROR(given.key.verify_key().Verify(crypto::domains::kRelease, receipt.body.items,
                                                   receipt.signature));
  TG_ASSIGN_OR_RETURN(const gate::SealedUpdate sealed,
                      gate::Sealing::Seal(std::move(given.cleared), given.context));
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t index,
                      given.ledger.Append(gate::LeafType::kReceipt, gate::ReceiptLeaf{receipt}));
  TG_RETURN_IF_ERROR(gate::Sealing::Debit(given.ledger, sealed));
  return gate::Sealing::Sign(given.key, given.ledger, sealed.manifest());
}
#else
Status Attempt(Given given) {
#if defined(CASE_PRINT_ONSHORE)
  std::cout << given.record;
#elif defined(CASE_FORMAT_ONSHORE)
  LogInfo("{}", given.record);
#elif defined(CASE_COPY_ONSHORE)
  Onshore<Record> copy = given.record;
#elif defined(CASE_COMPARE_ONSHORE)
  if (given.record == given.record) return {};
#elif defined(CASE_ENCODE_ONSHORE)
  const Bytes encoded = protocols::Encode(given.record);
// The ways around the gate, in the order of a release's life.
#elif defined(CASE_MINT_CLEARED)
  permit::Cleared<gate::Update> own({given.bytes, {}}, permit::Binding{});
#elif defined(CASE_COPY_CLEARED)
  permit::Cleared<gate::Update> copy = given.cleared;
#elif defined(CASE_CONSUME_CLEARED)
  const auto plain = std::move(given.cleared).Consume(permit::Binding{});
#elif defined(CASE_SEAL_BYTES)
  const auto sealed = gate::Sealing::Seal(given.bytes, given.context);
#elif defined(CASE_MAKE_SEALED)
  gate::SealedUpdate sealed(gate::IntentLeaf{});
#elif defined(CASE_COPY_SEALED)
  gate::SealedUpdate sealed = given.sealed;
#elif defined(CASE_CHANGE_SEALED)
  const_cast<gate::SealedUpdate&>(given.sealed).manifest_ = given.manifest;
#elif defined(CASE_APPEND_INTENT)
  const auto index = given.ledger.Append(gate::LeafType::kIntent, gate::IntentLeaf{});
#elif defined(CASE_WRITE_INTENT)
  const auto index = given.ledger.AppendIntent(gate::IntentLeaf{});
#elif defined(CASE_SIGN_RELEASE_AS_DOCUMENT)
  const auto release = crypto::SignDocument(given.key, crypto::domains::kRelease, given.manifest);
#elif defined(CASE_SIGN_BYTES_AS_RELEASE)
  const auto signature = given.key.Sign(crypto::domains::kRelease, given.bytes);
#elif defined(CASE_NAME_THE_RELEASE_DOMAIN)
  const auto signature = given.key.Sign(crypto::SignDomain("tidegate/v1/release"), given.bytes);
#elif defined(CASE_MAKE_RELEASE_PASS)
  const auto signature = given.key.SignRelease(permit::ReleasePass(), given.bytes);
#elif defined(CASE_BRACE_RELEASE_PASS)
  const auto signature = given.key.SignRelease({}, given.bytes);
#elif defined(CASE_RELEASE_WITHOUT_VERIFY)
  permit::Release release(given.document, given.manifest, given.key.verify_key());
#elif defined(CASE_CHANGE_RELEASE)
  const_cast<permit::Release&>(given.release).manifest_ = given.manifest;
#elif defined(CASE_ASSIGN_CLEARED)
  given.cleared = std::move(given.cleared);
#else
#error "no such case"
#endif
  return Internal("not reached");
}
#endif

}  // namespace tidegate
