// One attempt each to send something from a site's link that no gate released; as cases.cc.
#include "onshore/link/link_core.h"
#include "permit/outbound.h"

namespace tidegate {

struct Given {
  const permit::Release& release;
  const protocols::Signed& document;
  const protocols::ReleaseManifest& manifest;
  Bytes bytes;
};

Status Attempt(Given given) {
#if defined(CASE_CONTROL)
  TG_ASSIGN_OR_RETURN(const permit::Outbound offer, permit::Outbound::Offer(given.release, "head"));
  TG_ASSIGN_OR_RETURN(const permit::Outbound block,
                      permit::Outbound::Block(given.release, 0, given.bytes));
  onshore::LinkEffects effects{offer, block, permit::Outbound::Commit(given.release),
                               permit::Outbound::Say(protocols::Lease{})};
  given.bytes = effects.empty() ? offer.body() : block.body();
#elif defined(CASE_SEND_BYTES)
  permit::Outbound out(protocols::Channel::kBulk, protocols::MessageType::kChunk, given.bytes);
#elif defined(CASE_BRACE_OUTBOUND)
  permit::Outbound out{protocols::Channel::kControl, protocols::MessageType::kOffer, given.bytes};
#elif defined(CASE_OFFER_A_MANIFEST)
  const auto out = permit::Outbound::Offer(given.manifest, "head");
#elif defined(CASE_OFFER_A_DOCUMENT)
  const auto out = permit::Outbound::Offer(given.document, "head");
#elif defined(CASE_SEND_A_BLOCK_OF_A_MANIFEST)
  const auto out = permit::Outbound::Block(given.manifest, 0, given.bytes);
#elif defined(CASE_SAY_TEXT)
  const auto out = permit::Outbound::Say(protocols::ErrorMessage{1, 4, {}, "a text"});
#elif defined(CASE_SAY_A_DOCUMENT)
  const auto out = permit::Outbound::Say(protocols::Job{given.document});
#elif defined(CASE_CHANGE_OUTBOUND)
  auto out = permit::Outbound::Commit(given.release);
  out.body_ = given.bytes;
#elif defined(CASE_LINK_EFFECT_OF_BYTES)
  onshore::LinkEffects effects;
  effects.push_back(given.bytes);
#else
#error "no such case"
#endif
  return Internal("not reached");
}

}  // namespace tidegate
