// Every maximum of the wire and of what crosses between processes, with the relations between them.
// A peer's number is compared with these before anything is allocated.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidegate::protocols {

// Messages
inline constexpr size_t kHeaderBytes = 48;
inline constexpr size_t kMaxControlBody = 1u << 20;  // any message but CHUNK
inline constexpr size_t kMaxSignedBody = kMaxControlBody - 4096;
inline constexpr size_t kMaxName = 64;         // site, job, federation names
inline constexpr size_t kMaxTensorName = 160;  // "base_model.model.model.layers.0.…"
inline constexpr size_t kMaxErrorText = 200;
inline constexpr size_t kMaxAddress = 128;    // "tcp://host:port"
inline constexpr size_t kMaxHeadNote = 1024;  // a signed ledger head, C2SP note
inline constexpr size_t kMaxReason = 512;
inline constexpr size_t kMaxArmored = 64u << 10;  // a request or an approval, as a file

// Bulk
inline constexpr size_t kBlockBytes = 256u << 10;  // one sealed chunk, one transport block
inline constexpr size_t kMaxBlocks = 16384;        // of one content: 4 GiB
inline constexpr uint64_t kMaxContentBytes = static_cast<uint64_t>(kBlockBytes) * kMaxBlocks;
inline constexpr size_t kChunkPrefixBytes = 40;
inline constexpr size_t kMaxChunkBody = kChunkPrefixBytes + kBlockBytes;
inline constexpr uint64_t kMaxCreditBytes = 64ull << 20;  // outstanding to one peer
inline constexpr uint8_t kMaxStripes = 16;                // bulk connections of one site

// What a coordinator keeps for one site that does not read, over all its connections; of that bulk
// leaves a part to control, so that a site whose bulk stands still hears of rounds and receipts.
inline constexpr size_t kMaxQueuedForSite = 64u << 20;
inline constexpr size_t kQueuedControlShare = 8u << 20;

// A site's disk. In the spool the update that waits for its receipt and the next one, in the inbox
// the adapter in use and the next one, each as large as a content may be.
inline constexpr uint64_t kMaxSpoolBytes = 2 * kMaxContentBytes;
inline constexpr uint64_t kMaxInboxBytes = 2 * kMaxContentBytes;

// Jobs
inline constexpr uint32_t kMaxSites = 1024;
inline constexpr uint32_t kMaxTensors = 4096;
inline constexpr uint32_t kMaxPhases = 4;
inline constexpr uint32_t kMaxRank = 1024;
// Different jobs that a site's ledger takes: each leaves leaves behind, and the coordinator makes
// them.
inline constexpr size_t kMaxLedgerJobs = 4096;
inline constexpr uint32_t kMaxRounds = 100000;
inline constexpr uint32_t kMaxLocalSteps = 100000;
// Of an adapter: as floats a GiB, which passes whole between a site's gate and trainer.
inline constexpr uint64_t kMaxUpdateValues = 1ull << 28;

// Aggregation on the fixed-point grid (protocols/update.h): |value| < 2^6 on a grid of 2^-32, times
// a weight <= 2^16, over at most 2^8 contributions of one sum, stays below 2^62.
inline constexpr int kGridBits = 32;
inline constexpr double kMaxUpdateValue = 64.0;
inline constexpr uint32_t kMaxWeight = 1u << 16;
inline constexpr uint32_t kMaxContributions = 1u << 8;

// Between onshore processes (SEQPACKET pairs; the default socket buffer takes about 200 KB)
inline constexpr size_t kIpcMaxMessage = 64u << 10;
inline constexpr size_t kIpcMaxData = kIpcMaxMessage - 512;
// An adapter, or an update of any codec with its tensors' headers.
inline constexpr uint64_t kIpcMaxBulk = kMaxUpdateValues * sizeof(float) + (16u << 20);

// In a folder that is carried by hand (docs/formats/air-gap.md)
inline constexpr size_t kMaxFolderOffers = 16;     // of one site
inline constexpr size_t kMaxFolderMessages = 128;  // for one site
inline constexpr size_t kMaxFolderBlocks = 1u << 18;

static_assert(kMaxChunkBody < (1u << 20) + (1u << 18), "CHUNK stays under ZMQ_MAXMSGSIZE");
static_assert(kQueuedControlShare >= 4 * kMaxControlBody && kMaxQueuedForSite >= 32u << 20,
              "messages of every kind find room, and a coordinator's turn for one site too");
static_assert(kMaxBlocks * 32 < kMaxSignedBody, "a manifest with every block id fits a message");
static_assert(6 + 16 + 8 + kGridBits <= 62, "the integer sum can not overflow int64");
static_assert(kMaxTensors * (kMaxTensorName + 16) < kMaxSignedBody,
              "a job's layout fits a message");

}  // namespace tidegate::protocols
