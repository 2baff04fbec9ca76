// How long each site's ledger is. A head that was countersigned stands in a receipt: a site whose
// next head is shorter, or another one as long, has set its ledger back, say to a backup, and with
// it what its budgets remember.
#include "base/log.h"
#include "offshore/coordinator.h"

namespace tidegate::offshore {

// The outer error is the disk's, the inner one is for the site.
Result<Status> Coordinator::JudgeHead(Site& site, const crypto::Checkpoint& head) {
  if (!site.head) return OkStatus();
  federation::StoredHead& known = *site.head;
  const bool shorter = head.size < known.size;
  const bool other = head.size == known.size && head.root != known.root;
  if (!shorter && !other && known.set_back_unix_millis == 0) return OkStatus();
  const std::string& name = site.stored.name;
  // What is carried by hand may come in another order than it was said in.
  const bool proven = other || !site.by_folder;
  if (known.set_back_unix_millis == 0 && proven) {
    known.set_back_unix_millis = clock_.UnixMillis();
    TG_RETURN_IF_ERROR(store_->PutHead(name, site.stored.sign_key, known));
    LogError(
        "ledger_set_back site={} leaves={} countersigned={} remedy=\"put its newest gate/ back, or "
        "give it a new signing key; then approve it again\"",
        name, head.size, known.size);
  }
  return FailedPrecondition(
      "the ledger of {} was set back: {} leaves, {} were countersigned; put its newest gate/ back "
      "or give it a new signing key, then approve it again",
      name, head.size, known.size);
}

// Of a note that OnOffer has judged.
Status Coordinator::RememberHead(Site& site, const std::string& note) {
  const auto head = crypto::OpenCheckpoint(note, site.stored.name, site.key);
  if (!head) return Internal("a judged head does not open: {}", head.error().message());
  if (site.head && head->size <= site.head->size) return OkStatus();
  const int64_t set_back = site.head ? site.head->set_back_unix_millis : 0;
  site.head = federation::StoredHead{head->size, head->root, set_back};
  return store_->PutHead(site.stored.name, site.stored.sign_key, *site.head);
}

}  // namespace tidegate::offshore
