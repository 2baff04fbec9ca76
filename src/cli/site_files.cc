#include "cli/site_files.h"

#include "base/file.h"
#include "crypto/base_hash.h"
#include "crypto/sign.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;

// A TOML basic string.
std::string Quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

Result<std::string> PathLine(const char* key, const fs::path& path, const char* example) {
  if (path.empty()) return fmt::format("# {} = \"{}\"\n", key, example);
  std::error_code error;
  const fs::path whole = fs::absolute(path, error);
  if (error) return Unexpected(ErrnoStatus("name", path.native(), error.value()));
  return fmt::format("{} = {}\n", key, Quote(whole.lexically_normal().native()));
}

Result<std::string> SiteToml(const protocols::SiteApproval& approval,
                             const SiteFileOptions& options) {
  std::string out = fmt::format("name = {}\ncoordinator = {}\n", Quote(approval.site.text),
                                Quote(approval.address.text));
  TG_ASSIGN_OR_RETURN(const std::string base, PathLine("base", options.base, "../SmolLM2-135M"));
  TG_ASSIGN_OR_RETURN(const std::string records,
                      PathLine("records", options.records, "records.jsonl"));
  TG_ASSIGN_OR_RETURN(const std::string heldout,
                      PathLine("heldout", options.heldout, "heldout.jsonl"));
  return out + base + records + heldout +
         "# threads = 1\n# dtype = \"auto\"  # bf16, f32\n"
         "# walls = \"netns,seccomp,landlock_fs,pinned_address\"\n";
}

Result<std::string> PolicyToml(const protocols::SiteApproval& approval,
                               const SiteFileOptions& options) {
  std::string jobs, hashes = "# base_hashes = [\"SHA-256 of the base, 64 hex digits\"]\n";
  for (const std::string& job : options.jobs) jobs += (jobs.empty() ? "" : ", ") + Quote(job);
  jobs = jobs.empty() ? "# allow = [\"NAME or id of a job\"]\n" : "allow = [" + jobs + "]\n";
  if (!options.base.empty()) {
    TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(options.base));
    hashes = fmt::format("base_hashes = [\"{}\"]\n", ToHex(hash));
  }
  const std::string waiver =
      options.waiver.empty() ? "# waiver = \"why updates may leave without differential privacy\"\n"
                             : "waiver = " + Quote(options.waiver) + "\n";
  return fmt::format(
      "# What may leave this site. What is not named may not; the gate does not start while a line "
      "that\n# it needs is missing or a comment.\n[coordinator]\nkey = \"{}\"\nfederation = "
      "\"{}\"\n\n[jobs]\n{}{}max_rounds = 100\nmax_local_steps = 1000\n\n[export]\ntensors = "
      "[\"*.lora_A.weight\", \"*.lora_B.weight\"]\nmax_rank = 64\nmax_tensors = 2048\ncodecs = "
      "[\"int8\", \"int4\", \"bf16\", \"fixed32\"]\nnorm_clip = 10.0\nmax_bytes_per_round = "
      "268435456\n"
      "max_bytes_per_day = 4294967296\nmax_exports_per_day = 200\nmax_exports_per_job = 100\n"
      "metrics = [\"train_loss\", \"heldout_loss\"]\n\n[privacy]\n{}\n[walls]\ndemanded = "
      "[\"netns\", \"seccomp\", \"landlock_fs\", \"pinned_address\"]\n",
      crypto::PublicKeyText("ed25519", approval.coordinator_sign_key), ToHex(approval.federation),
      jobs, hashes, waiver);
}

}  // namespace

Result<std::vector<std::string>> WriteSiteFiles(const fs::path& dir,
                                                const protocols::SiteApproval& approval,
                                                const SiteFileOptions& options) {
  std::vector<std::string> written;
  const struct {
    const char* name;
    Result<std::string> (*make)(const protocols::SiteApproval&, const SiteFileOptions&);
  } files[] = {{"site.toml", SiteToml}, {"policy.toml", PolicyToml}};
  for (const auto& file : files) {
    const fs::path path = dir / file.name;
    std::error_code error;
    if (fs::exists(path, error)) continue;
    TG_ASSIGN_OR_RETURN(const std::string text, file.make(approval, options));
    TG_RETURN_IF_ERROR(WriteFileDurably(path, AsBytes(text), 0600));
    written.push_back(path.native());
  }
  return written;
}

}  // namespace tidegate::cli
