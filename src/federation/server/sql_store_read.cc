#include "federation/server/sql_store.h"

#include <algorithm>
#include <cstring>

#include "crypto/secret.h"

namespace tidegate::federation {

using protocols::Id16;
using protocols::Signed;

namespace {

Result<Signed> Unpack(const Bytes& bytes, std::string_view what) {
  auto document = protocols::Decode<Signed>(bytes);
  if (!document) return DataLoss("the store's {} is damaged: {}", what, document.error().reason);
  return std::move(*document);
}

std::vector<std::string> SplitNames(const std::string& text) {
  std::vector<std::string> names;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    names.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

}  // namespace

Result<std::vector<StoredSite>> SqlStore::Sites() {
  Statement row = Prepare(
      "SELECT name, sign_key, curve_key, approval, approved_ms, revoked_ms FROM sites ORDER BY "
      "name");
  std::vector<StoredSite> sites;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return sites;
    StoredSite site;
    site.name = row.Text(0);
    TG_ASSIGN_OR_RETURN(site.sign_key, row.Array<32>(1, "site key"));
    TG_ASSIGN_OR_RETURN(site.curve_key, row.Array<32>(2, "CURVE key"));
    TG_ASSIGN_OR_RETURN(site.approval, Unpack(row.Blob(3), "approval"));
    site.approved_unix_millis = row.Integer(4);
    site.revoked_unix_millis = row.Integer(5);
    sites.push_back(std::move(site));
  }
}

Result<std::optional<StoredHead>> SqlStore::Head(const std::string& site,
                                                 const protocols::PublicKey& sign_key) {
  Statement row =
      Prepare("SELECT size, root, set_back_ms FROM heads WHERE site = ? AND sign_key = ?");
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(site).Bind(ByteSpan(sign_key)).Step());
  if (!found) return std::optional<StoredHead>();
  StoredHead head;
  head.size = static_cast<uint64_t>(row.Integer(0));
  TG_ASSIGN_OR_RETURN(head.root, row.Array<32>(1, "root"));
  head.set_back_unix_millis = row.Integer(2);
  return std::optional(head);
}

Result<std::vector<StoredJob>> SqlStore::Jobs() {
  Statement row = Prepare("SELECT id, manifest, base_name, model_config FROM jobs ORDER BY seq");
  std::vector<StoredJob> jobs;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return jobs;
    StoredJob job;
    TG_ASSIGN_OR_RETURN(job.id, row.Array<16>(0, "job id"));
    TG_ASSIGN_OR_RETURN(job.manifest, Unpack(row.Blob(1), "job"));
    job.base_name = row.Text(2);
    job.model_config = row.Text(3);
    jobs.push_back(std::move(job));
  }
}

Result<std::vector<Event>> SqlStore::Events(const Id16& job) {
  Statement row = Prepare(
      "SELECT kind, round, site, content, weight, unix_ms FROM events WHERE job = ? ORDER BY seq");
  row.Bind(ByteSpan(job));
  std::vector<Event> events;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return events;
    const auto number = static_cast<uint32_t>(row.Integer(1));
    switch (row.Integer(0)) {
      case kOpened:
        events.emplace_back(RoundOpened{number, row.Integer(5), SplitNames(row.Text(2))});
        break;
      case kAccepted: {
        TG_ASSIGN_OR_RETURN(const Digest content, row.Array<32>(3, "content id"));
        events.emplace_back(
            UpdateAccepted{row.Text(2), number, {content, static_cast<uint32_t>(row.Integer(4))}});
        break;
      }
      case kTime:
        events.emplace_back(TimePassed{row.Integer(5)});
        break;
      case kPublished:
        events.emplace_back(VersionPublished{number, row.Integer(5)});
        break;
      case kStop:
        events.emplace_back(StopRequested{row.Integer(5)});
        break;
      default:
        return DataLoss("the store {} has an event of kind {}", database_->name(), row.Integer(0));
    }
  }
}

Result<std::vector<LoggedEvent>> SqlStore::EventLog(const Id16& job, int64_t after,
                                                    uint32_t limit) {
  static constexpr const char* kKinds[] = {"",          "opened", "accepted", "time_passed",
                                           "published", "stop"};
  Statement row = Prepare(
      "SELECT seq, kind, round, site, weight, unix_ms FROM events WHERE job = ? AND seq > ? "
      "ORDER BY seq LIMIT ?");
  row.Bind(ByteSpan(job)).Bind(after).Bind(int64_t{limit});
  std::vector<LoggedEvent> log;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return log;
    const int64_t kind = row.Integer(1);
    if (kind < kOpened || kind > kStop) {
      return DataLoss("the store {} has an event of kind {}", database_->name(), kind);
    }
    log.push_back({row.Integer(0), kKinds[kind], static_cast<uint32_t>(row.Integer(2)), row.Text(3),
                   static_cast<uint32_t>(row.Integer(4)), row.Integer(5)});
  }
}

Result<std::optional<StoredContent>> SqlStore::Moments(const Id16& job) {
  Statement row = Prepare("SELECT bytes, blocks FROM moments WHERE job = ?");
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(ByteSpan(job)).Step());
  if (!found) return std::optional<StoredContent>();
  StoredContent content;
  content.bytes = static_cast<uint64_t>(row.Integer(0));
  const Bytes ids = row.Blob(1);
  if (ids.size() % sizeof(Digest) != 0) return DataLoss("the store's moments are damaged");
  content.blocks.resize(ids.size() / sizeof(Digest));
  if (!ids.empty()) std::memcpy(content.blocks.data(), ids.data(), ids.size());
  return std::optional(std::move(content));
}

Result<std::optional<Signed>> SqlStore::OneSigned(Statement statement,
                                                  std::string_view what) const {
  TG_ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return std::optional<Signed>();
  TG_ASSIGN_OR_RETURN(Signed document, Unpack(statement.Blob(0), what));
  return std::optional<Signed>(std::move(document));
}

Result<std::optional<Signed>> SqlStore::Notice(const Id16& job, uint32_t round) {
  Statement row = Prepare("SELECT notice FROM notices WHERE job = ? AND round = ?");
  row.Bind(ByteSpan(job)).Bind(int64_t{round});
  return OneSigned(std::move(row), "notice");
}

Result<std::optional<StoredRound>> SqlStore::Round(const Id16& job, uint32_t round) {
  Statement row = Prepare("SELECT announcement FROM rounds WHERE job = ? AND round = ?");
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(ByteSpan(job)).Bind(int64_t{round}).Step());
  if (!found) return std::optional<StoredRound>();
  StoredRound stored;
  stored.round = round;
  TG_ASSIGN_OR_RETURN(stored.announcement, Unpack(row.Blob(0), "announcement"));
  return std::optional<StoredRound>(std::move(stored));
}

Result<crypto::AgreeSecretKey> SqlStore::RecipientKey(const Id16& job, uint32_t round) {
  Statement row = Prepare("SELECT recipient_secret FROM rounds WHERE job = ? AND round = ?");
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(ByteSpan(job)).Bind(int64_t{round}).Step());
  if (!found || row.IsNull(0)) {
    return NotFound("round {} has no recipient key any more", round);
  }
  crypto::SecretBytes secret(row.Blob(0));
  if (secrets_ != nullptr) {
    TG_ASSIGN_OR_RETURN(secret, secrets_->Join(secret.reveal()));
  }
  return crypto::AgreeSecretKey::FromBytes(secret.reveal());
}

namespace {

constexpr const char* kUpdateColumns =
    "SELECT job, round, phase, site, content, weight, release, accepted_ms, outcome, "
    "train_loss_milli, heldout_loss_milli FROM updates WHERE job = ? AND ";

}  // namespace

Result<StoredUpdate> SqlStore::ReadUpdate(const Statement& row) const {
  StoredUpdate update;
  TG_ASSIGN_OR_RETURN(update.key.job, row.Array<16>(0, "job id"));
  update.key.round = static_cast<uint32_t>(row.Integer(1));
  update.key.phase = static_cast<uint8_t>(row.Integer(2));
  update.key.site = row.Text(3);
  TG_ASSIGN_OR_RETURN(update.content, row.Array<32>(4, "content id"));
  update.weight = static_cast<uint32_t>(row.Integer(5));
  TG_ASSIGN_OR_RETURN(update.release, Unpack(row.Blob(6), "release"));
  update.accepted_unix_millis = row.Integer(7);
  const int64_t outcome = row.Integer(8);
  if (outcome != 1 && outcome != 2)
    return DataLoss("the store has an update of outcome {}", outcome);
  update.outcome = static_cast<protocols::ReceiptOutcome>(outcome);
  update.train_loss_milli = static_cast<uint32_t>(row.Integer(9));
  update.heldout_loss_milli = static_cast<uint32_t>(row.Integer(10));
  return update;
}

Result<std::vector<StoredUpdate>> SqlStore::ReadUpdates(Statement rows) const {
  std::vector<StoredUpdate> updates;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, rows.Step());
    if (!more) return updates;
    TG_ASSIGN_OR_RETURN(StoredUpdate update, ReadUpdate(rows));
    updates.push_back(std::move(update));
  }
}

Result<std::optional<StoredUpdate>> SqlStore::Update(const protocols::UpdateKey& key) {
  const std::string sql = std::string(kUpdateColumns) + "round = ? AND phase = ? AND site = ?";
  Statement row = Prepare(sql.c_str());
  row.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(key.site.text).Step());
  if (!found) return std::optional<StoredUpdate>();
  TG_ASSIGN_OR_RETURN(StoredUpdate update, ReadUpdate(row));
  return std::optional<StoredUpdate>(std::move(update));
}

Result<std::vector<StoredUpdate>> SqlStore::Updates(const Id16& job, uint32_t round) {
  const std::string sql = std::string(kUpdateColumns) + "round = ? AND outcome = 1 ORDER BY site";
  Statement rows = Prepare(sql.c_str());
  rows.Bind(ByteSpan(job)).Bind(int64_t{round});
  return ReadUpdates(std::move(rows));
}

Result<std::vector<StoredUpdate>> SqlStore::NewestUpdates(const Id16& job) {
  const std::string sql = std::string(kUpdateColumns) +
                          "outcome = 1 AND round = (SELECT max(round) FROM updates AS u WHERE "
                          "u.job = updates.job AND u.site = updates.site AND u.outcome = 1) "
                          "ORDER BY site";
  Statement rows = Prepare(sql.c_str());
  rows.Bind(ByteSpan(job));
  return ReadUpdates(std::move(rows));
}

Result<std::optional<Signed>> SqlStore::ReceiptOf(const protocols::UpdateKey& key) {
  Statement row = Prepare(
      "SELECT receipt FROM receipts WHERE job = ? AND round = ? AND phase = ? AND site = ?");
  row.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase}).Bind(key.site.text);
  return OneSigned(std::move(row), "receipt");
}

Result<std::optional<Signed>> SqlStore::Version(const Id16& job, std::optional<uint32_t> version) {
  if (version) {
    Statement row = Prepare("SELECT manifest FROM versions WHERE job = ? AND version = ?");
    row.Bind(ByteSpan(job)).Bind(int64_t{*version});
    return OneSigned(std::move(row), "adapter manifest");
  }
  Statement row =
      Prepare("SELECT manifest FROM versions WHERE job = ? ORDER BY version DESC LIMIT 1");
  row.Bind(ByteSpan(job));
  return OneSigned(std::move(row), "adapter manifest");
}

Result<uint64_t> SqlStore::Equivocations() {
  Statement row = Prepare("SELECT count(*) FROM equivocations");
  TG_ASSIGN_OR_RETURN(const bool found, row.Step());
  return found ? static_cast<uint64_t>(row.Integer(0)) : 0;
}

}  // namespace tidegate::federation
