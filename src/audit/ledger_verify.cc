#include "audit/ledger_verify.h"

#include <fmt/format.h>

#include "base/clock.h"
#include "crypto/checkpoint_note.h"
#include "crypto/merkle.h"
#include "gate/approval.h"
#include "gate/ledger.h"
#include "gate/ledger_file.h"

namespace tidegate::audit {
namespace {

using namespace gate;  // the leaves, which are what is read here

template <typename Leaf>
Result<Leaf> BodyOf(const LedgerEntry& entry) {
  auto leaf = protocols::Decode<Leaf>(entry.body.items);
  if (!leaf) return DataLoss("leaf {}: {}", entry.index, leaf.error().reason);
  return *leaf;
}

// One pass over the records.
class Checker {
 public:
  Checker(std::string_view name, const std::optional<crypto::VerifyKey>& coordinator_key)
      : name_(name), coordinator_key_(coordinator_key) {}

  Status Take(const Record& record) {
    return record.kind == RecordKind::kLeaf ? TakeLeaf(record.payload) : TakeHead(record.payload);
  }

  Result<Verification> Finish(const std::optional<Bytes>& receipt) {
    if (!result_) return DataLoss("{} has no leaf", name_);
    if (!covered_) return DataLoss("{}: the last leaf is covered by no head", name_);
    if (receipt) TG_RETURN_IF_ERROR(CheckForeignHead(*receipt));
    result_->leaves = roots_.size();
    return *result_;
  }

 private:
  Status TakeLeaf(ByteSpan payload) {
    const auto entry = protocols::Decode<LedgerEntry>(payload);
    if (!entry || entry->index != roots_.size()) {
      return DataLoss("{}: leaf {} does not decode or is out of order", name_, roots_.size());
    }
    frontier_.Append(crypto::MerkleLeafHash(payload));
    roots_.push_back(frontier_.Root());
    covered_ = false;
    if (entry->index == 0) return TakeOpened(*entry);
    switch (entry->type) {
      case LeafType::kIntent: {
        TG_ASSIGN_OR_RETURN(const IntentLeaf leaf, BodyOf<IntentLeaf>(*entry));
        ++result_->exports;
        result_->export_bytes += leaf.ciphertext_bytes;
        return OkStatus();
      }
      case LeafType::kRefusal:
        ++result_->refusals;
        return OkStatus();
      case LeafType::kReceipt: {
        TG_ASSIGN_OR_RETURN(const ReceiptLeaf leaf, BodyOf<ReceiptLeaf>(*entry));
        ++result_->receipts;
        uint64_t covers = 0;
        return CheckReceipt(leaf.receipt, *named_coordinator_, &covers)
            .WithContext(fmt::format("leaf {}, a receipt", entry->index));
      }
      default:
        return OkStatus();
    }
  }

  Status TakeOpened(const LedgerEntry& entry) {
    TG_ASSIGN_OR_RETURN(opened_, BodyOf<OpenedLeaf>(entry));
    if (entry.type != LeafType::kOpened) return DataLoss("{}: leaf 0 opens no ledger", name_);
    TG_ASSIGN_OR_RETURN(crypto::VerifyKey key, crypto::VerifyKey::FromBytes(opened_.site_key));
    TG_ASSIGN_OR_RETURN(named_coordinator_, crypto::VerifyKey::FromBytes(opened_.coordinator_key));
    if (coordinator_key_ && *coordinator_key_ != *named_coordinator_ && *coordinator_key_ != key) {
      return Unauthenticated("{} is of site key {} and coordinator key {}; --key is neither", name_,
                             key.ToText(), named_coordinator_->ToText());
    }
    result_ = Verification{.leaves = 0,
                           .site = opened_.site.text,
                           .site_key = key,
                           .exports = 0,
                           .export_bytes = 0,
                           .refusals = 0,
                           .receipts = 0,
                           .head_covers = std::nullopt};
    return OkStatus();
  }

  Status CheckHead(std::string_view note, uint64_t* size) const {
    TG_ASSIGN_OR_RETURN(const crypto::Checkpoint checkpoint,
                        crypto::OpenCheckpoint(note, result_->site, result_->site_key));
    if (checkpoint.origin != LedgerOrigin(opened_.federation, result_->site)) {
      return DataLoss("a head is of another log, {}", checkpoint.origin);
    }
    if (checkpoint.size == 0 || checkpoint.size > roots_.size()) {
      return DataLoss("a head covers {} leaves, the ledger has {}: its end was cut",
                      checkpoint.size, roots_.size());
    }
    if (checkpoint.root != roots_[checkpoint.size - 1]) {
      return DataLoss("a head over {} leaves has another root: the ledger was rewritten",
                      checkpoint.size);
    }
    *size = checkpoint.size;
    return OkStatus();
  }

  Status TakeHead(ByteSpan payload) {
    if (!result_) return DataLoss("{} begins with a head", name_);
    uint64_t size = 0;
    TG_RETURN_IF_ERROR(CheckHead(AsText(payload), &size));
    if (size != roots_.size())
      return DataLoss("{}: a head is not over the leaves before it", name_);
    covered_ = true;
    return OkStatus();
  }

  Status CheckForeignHead(const Bytes& encoded) {
    if (!coordinator_key_) return InvalidArgument("a receipt needs the coordinator's --key");
    const auto document = protocols::Decode<protocols::Signed>(encoded);
    if (!document) return DataLoss("the receipt: {}", document.error().reason);
    uint64_t size = 0;
    TG_RETURN_IF_ERROR(CheckReceipt(*document, *coordinator_key_, &size));
    result_->head_covers = size;
    return OkStatus();
  }

  // Signed by this key, for this site, over a head of this very log.
  Status CheckReceipt(const protocols::Signed& document, const crypto::VerifyKey& key,
                      uint64_t* size) const {
    TG_RETURN_IF_ERROR(
        key.Verify(crypto::domains::kReceipt, document.body.items, document.signature));
    const auto receipt = protocols::Decode<protocols::Receipt>(document.body.items);
    if (!receipt) return DataLoss("the receipt: {}", receipt.error().reason);
    if (receipt->federation != opened_.federation || receipt->key.site.text != result_->site) {
      return DataLoss("the receipt is of another federation or site");
    }
    return CheckHead(receipt->ledger_head.text, size);
  }

  std::string_view name_;
  const std::optional<crypto::VerifyKey>& coordinator_key_;
  std::optional<crypto::VerifyKey> named_coordinator_;
  OpenedLeaf opened_;
  crypto::MerkleFrontier frontier_;
  std::vector<Digest> roots_;  // after each leaf
  std::optional<Verification> result_;
  bool covered_ = false;
};

std::string KeyText(const protocols::UpdateKey& key) {
  return fmt::format("job={} round={} phase={}", ToHex(key.job), key.round, key.phase);
}

}  // namespace

Result<Verification> VerifyLedger(ByteSpan file, std::string_view name,
                                  const std::optional<crypto::VerifyKey>& coordinator_key,
                                  const std::optional<Bytes>& receipt) {
  TG_ASSIGN_OR_RETURN(const Scan scan, ScanLedger(file, name));
  if (scan.torn) return DataLoss("{} is damaged at offset {}", name, scan.end);
  Checker checker(name, coordinator_key);
  for (const Record& record : scan.records) TG_RETURN_IF_ERROR(checker.Take(record));
  return checker.Finish(receipt);
}

Result<std::vector<LedgerEntry>> ReadLedger(ByteSpan file, std::string_view name) {
  TG_ASSIGN_OR_RETURN(const Scan scan, ScanLedger(file, name));
  std::vector<LedgerEntry> entries;
  for (const Record& record : scan.records) {
    if (record.kind != RecordKind::kLeaf) continue;
    auto entry = protocols::Decode<LedgerEntry>(record.payload);
    if (!entry) return DataLoss("{}: leaf {}: {}", name, entries.size(), entry.error().reason);
    entries.push_back(std::move(*entry));
  }
  return entries;
}

std::string LeafText(const LedgerEntry& entry) {
  std::string text = fmt::format("{:>5} {} {:<9} ", entry.index, FormatUtc(entry.unix_millis),
                                 LeafTypeName(entry.type));
  const auto add = [&text](const auto& leaf, auto&& format) {
    text += leaf ? format(*leaf) : leaf.error().reason;
  };
  const auto& body = entry.body.items;
  switch (entry.type) {
    case LeafType::kOpened:
      add(protocols::Decode<OpenedLeaf>(body), [](const OpenedLeaf& l) {
        return fmt::format("site={} federation={}", l.site.text, ToHex(l.federation));
      });
      break;
    case LeafType::kPolicy:
      add(protocols::Decode<PolicyLeaf>(body), [](const PolicyLeaf& l) {
        return fmt::format("sha256={} bytes={}", ToHex(l.digest), l.text.size());
      });
      break;
    case LeafType::kIsolation:
      add(protocols::Decode<IsolationLeaf>(body), [](const IsolationLeaf& l) {
        return fmt::format("process={} statement_bytes={}", l.process.text,
                           l.statement.text.size());
      });
      break;
    case LeafType::kJob:
      add(protocols::Decode<JobLeaf>(body), [](const JobLeaf& l) {
        return fmt::format("job={} name={} rounds={} base={}", ToHex(l.job), l.name.text, l.rounds,
                           ToHex(l.base_hash));
      });
      break;
    case LeafType::kRefusal:
      add(protocols::Decode<RefusalLeaf>(body), [](const RefusalLeaf& l) {
        return fmt::format("what={} job={} round={} rule={} reason=\"{}\"", l.what.text,
                           ToHex(l.job), l.round, l.rule.text, l.reason.text);
      });
      break;
    case LeafType::kIntent:
      add(protocols::Decode<IntentLeaf>(body), [](const IntentLeaf& l) {
        return fmt::format("{} bytes={} values={} capacity_bits={:.0f} l2_norm={:.6g} content={}",
                           KeyText(l.key), l.ciphertext_bytes, l.values, l.capacity_bits, l.l2_norm,
                           ToHex(l.content));
      });
      break;
    case LeafType::kReceipt:
      add(protocols::Decode<ReceiptLeaf>(body), [](const ReceiptLeaf& l) -> std::string {
        const auto receipt = protocols::Decode<protocols::Receipt>(l.receipt.body.items);
        if (!receipt) return receipt.error().reason;
        return fmt::format(
            "{} outcome={} content={}", KeyText(receipt->key),
            receipt->outcome == protocols::ReceiptOutcome::kCounted ? "counted" : "late",
            ToHex(receipt->content));
      });
      break;
    case LeafType::kApproval:
      add(protocols::Decode<ApprovalLeaf>(body), [](const ApprovalLeaf& l) {
        const auto approval = protocols::Decode<Approval>(l.approval.body.items);
        if (!approval) return approval.error().reason;
        return fmt::format("{} by={} plaintext={}", KeyText(approval->key), approval->approver.text,
                           ToHex(approval->plaintext));
      });
      break;
    case LeafType::kDataset:
      add(protocols::Decode<DatasetLeaf>(body), [](const DatasetLeaf& l) {
        return fmt::format("job={} records={} bytes={}", ToHex(l.job), ToHex(l.records),
                           l.records_bytes);
      });
      break;
    case LeafType::kDecision:
      add(protocols::Decode<DecisionLeaf>(body), [](const DecisionLeaf& l) {
        return fmt::format("{} {} by={} uid={} plaintext={}", KeyText(l.key),
                           l.decision == Decision::kRelease ? "release" : "refuse", l.approver.text,
                           l.uid, ToHex(l.plaintext));
      });
      break;
    case LeafType::kOutside:
      add(protocols::Decode<OutsideLeaf>(body), [](const OutsideLeaf& l) {
        return fmt::format("{} trained by uid={} plaintext={}", KeyText(l.key), l.uid,
                           ToHex(l.plaintext));
      });
      break;
    case LeafType::kAdapter:
      add(protocols::Decode<AdapterLeaf>(body), [](const AdapterLeaf& l) {
        return fmt::format("job={} version={}{} content={}", ToHex(l.job), l.version,
                           l.final ? " final" : "", ToHex(l.content));
      });
      break;
  }
  return text;
}

}  // namespace tidegate::audit
