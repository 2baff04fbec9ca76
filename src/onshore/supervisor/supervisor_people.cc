// What people of the site decide, and programs of theirs that train its rounds.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "onshore/supervisor/given_fd.h"
#include "onshore/supervisor/supervisor.h"

namespace tidegate::onshore {

using api::Reason;

// Who it is goes along, as the kernel says; whether that counts is the gate's to judge.
ApiAnswer Supervisor::Decide(const ApiPeer& peer, const api::DecideRequest& request) {
  Process& process = gate();
  if (!process.running() || process.ready_by || !process.control.valid()) return {Reason::kNoGate};
  const std::string reason = api::TextOf(request.reason);
  bool said = true;
  ControlMessage part;
  part.type = ControlType::kReason;
  // One part also where there are no words: it begins anew after those of a decision that did not
  // get through.
  size_t at = 0;
  do {
    part.arguments = {};
    std::memcpy(part.arguments.data(), reason.data() + at,
                std::min(reason.size() - at, sizeof(part.arguments)));
    said = SayAll(process, part);
    ++part.code;
    at += sizeof(part.arguments);
  } while (at < reason.size() && said);
  ControlMessage decision;
  decision.type = ControlType::kDecision;
  decision.code = request.decision;
  decision.arguments[0] = peer.uid;
  std::memcpy(decision.arguments.data() + 1, request.plaintext.data(), kDecisionDigestBytes);
  if (!said || !SayAll(process, decision)) return {Reason::kNoGate};
  return {};
}

// The trainer of now ends in good order; the next one has no record, and the client's pipes.
ApiAnswer Supervisor::TrainOutside(uint64_t client, const ApiPeer& peer,
                                   std::vector<Fd> descriptors) {
  if (outside_) return {Reason::kOutside};
  if (std::any_of(locals_.begin(), locals_.end(),
                  [client](const LocalJob& job) { return job.client == client; })) {
    return {Reason::kAlready};
  }
  for (const Fd& fd : descriptors) {
    if (!IsPipe(fd.get())) return {Reason::kNotPipe};
  }
  outside_ = Outside{client, peer.uid, std::move(descriptors[0]), std::move(descriptors[1])};
  api_->SetBusy(client, true);
  Note(EventCode::kOutsideBegan, {peer.uid});
  Process& process = trainer();
  if (process.running()) {
    StopTrainer();
  } else if (process.wanted && !process.start_at) {
    process.start_at = std::max(SystemClock().MonotonicMillis(), process.not_before);
  }
  return {};
}

void Supervisor::OnOutsideClientGone(uint64_t client) {
  if (!outside_ || outside_->client != client) return;
  Process& process = trainer();
  if (process.outside) return StopTrainer();
  Note(EventCode::kOutsideEnded, {outside_->uid});
  outside_.reset();
  if (holds_ == 0) return;
  process.start_at.reset();
  if (!process.running()) Say(gate(), ControlType::kTrainerGone);
}

void Supervisor::OnOutsideEnd(Process& process, const ChildEnd& end) {
  process.outside = false;
  if (!outside_) return;
  Note(EventCode::kOutsideEnded, {outside_->uid});
  api::Header header;
  header.type = static_cast<uint16_t>(api::Type::kLocalEnded);
  api_->Tell(outside_->client,
             api::Encode(header, api::LocalEnded{0, static_cast<uint32_t>(end.end), end.signal,
                                                 end.exit_status}));
  api_->SetBusy(outside_->client, false);
  outside_.reset();
}

}  // namespace tidegate::onshore
