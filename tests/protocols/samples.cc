#include "samples.h"

#include <algorithm>

namespace tidegate::protocols {
namespace {

template <size_t N>
std::array<uint8_t, N> Filled(uint8_t first) {
  std::array<uint8_t, N> out;
  for (size_t i = 0; i < N; ++i) out[i] = static_cast<uint8_t>(first + i);
  return out;
}

template <typename Message>
Sample Make(std::string name, const Message& message) {
  return {std::move(name), Encode(message),
          [](std::span<const uint8_t> bytes) -> Decoded<std::vector<uint8_t>> {
            auto decoded = Decode<Message>(bytes);
            if (!decoded) return tl::unexpected(decoded.error());
            return Encode(*decoded);
          }};
}

JobManifest SampleJob() {
  JobManifest job;
  job.federation = Filled<16>(1);
  job.name = "triage";
  job.created_unix_millis = 1795581436000;
  job.base_hash = Filled<32>(2);
  job.layout.tensors.items = {
      {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", 4, 96, 0},
      {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", 96, 4, 1}};
  job.lora_r = 4;
  job.lora_alpha = 8;
  job.lora_dropout = 0.05;
  job.lora_targets = 0x7f;
  job.local_lora_r = 2;
  job.proximal_mu = 0.01;
  job.server_optimizer = ServerOptimizer::kFedAdam;
  job.server_learning_rate = 0.001;
  job.server_beta1 = 0.9;
  job.server_beta2 = 0.99;
  job.server_tau = 0.001;
  job.weighting = Weighting::kTokens;
  job.max_weight = 4096;
  job.phase_groups.items = {3};
  job.rounds = 6;
  job.local_steps = 4;
  job.batch_size = 8;
  job.max_length = 256;
  job.learning_rate = 0.002;
  job.seed = 42;
  job.quorum = 1;
  job.target_updates = 2;
  job.sites_per_round = 2;
  job.round_deadline_millis = 600000;
  job.sites.items = {"north", "south"};
  return job;
}

UpdateKey SampleKey() { return {Filled<16>(9), 3, 0, "north"}; }

FixedName NorthFixed() {
  FixedName name{};
  const std::string text = "north";
  std::copy(text.begin(), text.end(), name.begin());
  return name;
}

ReleaseManifest SampleRelease() {
  ReleaseManifest release;
  release.federation = Filled<16>(1);
  release.key = SampleKey();
  release.base_hash = Filled<32>(2);
  release.layout_digest = Filled<32>(3);
  release.recipient = Filled<32>(4);
  release.encapsulated = Filled<32>(5);
  release.commitment = Filled<32>(6);
  release.plaintext = Filled<32>(7);
  release.ciphertext_bytes = 300000;
  release.content = Filled<32>(8);
  release.blocks.items = {Filled<32>(9), Filled<32>(10)};
  release.policy = Filled<32>(11);
  release.ledger_index = 12;
  release.released_unix_millis = 1795581437000;
  return release;
}

AdapterManifest SampleAdapter() {
  AdapterManifest adapter;
  adapter.job = Filled<16>(9);
  adapter.version = 2;
  adapter.final = true;
  adapter.base_hash = Filled<32>(2);
  adapter.layout_digest = Filled<32>(3);
  adapter.content_bytes = 4096;
  adapter.content = Filled<32>(13);
  adapter.blocks.items = {Filled<32>(14)};
  return adapter;
}

BaseManifest SampleBase() {
  BaseManifest base;
  base.federation = Filled<16>(1);
  base.name = "smol";
  base.version = 2;
  base.previous = Filled<32>(21);
  base.created_unix_millis = 1795581440000;
  base.expires_unix_millis = 1803357440000;
  base.licence = "Apache-2.0";
  base.base_hash = Filled<32>(2);
  base.base_bytes = 300700;
  base.index = {212, {{Filled<32>(22)}}};
  base.patch_from = Filled<32>(23);
  base.patch_bytes = 5000;
  base.patch = {190, {{Filled<32>(24)}}};
  return base;
}

BaseIndex SampleIndex() {
  BaseIndex index;
  index.files.items = {{"config.json", 700}, {"model.safetensors", 300000}};
  index.tensors.items = {{"lm_head.weight", "BF16", {{2, 74960}}, 1, 160, 299840}};
  index.blocks.items = {{Filled<32>(25), 700},
                        {Filled<32>(26), 160},
                        {Filled<32>(27), 262144},
                        {Filled<32>(28), 37696}};
  return index;
}

BasePatch SamplePatch() {
  BasePatch patch;
  patch.from.items = {{"config.json", 700}, {"model.safetensors", 300000}};
  patch.pieces.items = {{PatchKind::kSame, 1, 700, 0, 0, 0},
                        {PatchKind::kFull, 1, 160, 160, 0, 0},
                        {PatchKind::kXor, 2, 299840, 4840, 1, 160}};
  patch.blocks.items = {Filled<32>(29)};
  return patch;
}

Signed SampleSigned() {
  Signed s;
  s.body.items = {1, 2, 3};
  s.signature = Filled<64>(15);
  return s;
}

}  // namespace

std::vector<Sample> AllSamples() {
  const std::string note = "tidegate.example/north\n7\nAAAA\n\n\xe2\x80\x94 north AAAA\n";
  std::vector<Sample> out;
  out.push_back(Make("signed", SampleSigned()));
  out.push_back(Make("layout", SampleJob().layout));
  out.push_back(Make("job_manifest", SampleJob()));
  out.push_back(Make("round_announcement", RoundAnnouncement{Filled<16>(9), 3, 0, Filled<32>(4), 2,
                                                             Filled<32>(16), 1795581500000}));
  out.push_back(Make("adapter_manifest", SampleAdapter()));
  out.push_back(Make("update_key", SampleKey()));
  out.push_back(Make("release_manifest", SampleRelease()));
  out.push_back(Make("receipt", Receipt{Filled<16>(1), SampleKey(), Filled<32>(8),
                                        ReceiptOutcome::kLate, 1795581438000, note}));
  out.push_back(Make("abandon_notice",
                     AbandonNotice{Filled<16>(9), 3, AbandonReason::kStopped, 1795581439000}));
  out.push_back(
      Make("site_request", SiteRequest{"north", Filled<32>(17), Filled<32>(18), 1795581430000}));
  out.push_back(Make("site_approval", SiteApproval{Filled<16>(1), "demo", "north", Filled<32>(17),
                                                   Filled<32>(18), Filled<32>(19), Filled<32>(20),
                                                   "tcp://192.0.2.1:7443", 1795581431000}));
  out.push_back(Make("hello", Hello{NorthFixed(), Channel::kBulk, 3, 77, 10000}));
  out.push_back(Make("job", Job{SampleSigned()}));
  out.push_back(Make("round", Round{SampleSigned()}));
  out.push_back(Make("adapter_offer", AdapterOffer{SampleSigned()}));
  out.push_back(Make("receipt_message", ReceiptMessage{SampleSigned()}));
  out.push_back(Make("abandon", Abandon{SampleSigned()}));
  out.push_back(Make("offer", Offer{SampleSigned(), note}));
  out.push_back(Make("want", Want{Filled<32>(8), 1, 2, 524288}));
  out.push_back(Make("credit", Credit{Filled<32>(8), 262144}));
  out.push_back(Make("have", Have{Filled<32>(8), 9, {{0xff, 0x01}}}));
  out.push_back(Make("commit", Commit{Filled<32>(8)}));
  out.push_back(Make("lease", Lease{77, Filled<16>(9), 3, 2, 5000}));
  out.push_back(Make("error", ErrorMessage{6, 4, Filled<32>(8), "the round has ended"}));
  out.push_back(Make("base_manifest", SampleBase()));
  out.push_back(Make("base_revocation", BaseRevocation{Filled<16>(1), "smol", 2, Filled<32>(2),
                                                       1795581441000, "wrong tokenizer"}));
  out.push_back(Make("base_list", SampleBase().index));
  out.push_back(Make("base_index", SampleIndex()));
  out.push_back(Make("base_patch", SamplePatch()));
  out.push_back(Make("base", Base{SampleSigned()}));
  out.push_back(Make("revoke", Revoke{SampleSigned()}));
  return out;
}

}  // namespace tidegate::protocols
