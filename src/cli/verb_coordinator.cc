// coordinator init: a federation's id, keys and coordinator.toml. coordinator exchange: the trip of
// a folder to sites without a network.
#include <filesystem>

#include "base/file.h"
#include "cli/coordinator_client.h"
#include "cli/verb.h"
#include "crypto/keyfile.h"
#include "crypto/random.h"
#include "protocols/limits.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Options {
  fs::path dir;
  std::string name, address;
};

bool PlainText(const std::string& text, size_t most) {
  bool good = !text.empty() && text.size() <= most;
  for (const char c : text) good = good && c > 0x20 && c < 0x7f && c != '"' && c != '\\';
  return good;
}

Status CheckOptions(const Options& options) {
  if (!PlainText(options.name, protocols::kMaxName)) {
    return InvalidArgument("--name has 1 … {} printable ASCII characters without spaces and quotes",
                           protocols::kMaxName);
  }
  const size_t colon = options.address.rfind(':');
  if (!PlainText(options.address, protocols::kMaxAddress) ||
      !options.address.starts_with("tcp://") || colon < 7 || colon + 1 == options.address.size()) {
    return InvalidArgument("--address is \"{}\"; it must be tcp://HOST:PORT, where sites can dial",
                           options.address);
  }
  return OkStatus();
}

std::string Text(const ordered_json& report) {
  return fmt::format(
      "federation   {} ({})\naddress      {}\nkey          {}\nfingerprint  {}\n\n"
      "Start it with: tidegate-coordinator --dir {}\n"
      "Give the fingerprint to each site by another way than this network.\n",
      report["name"].get<std::string>(), report["federation"].get<std::string>(),
      report["address"].get<std::string>(), report["key"].get<std::string>(),
      report["fingerprint"].get<std::string>(), report["dir"].get<std::string>());
}

// Beside the port that sites dial.
int WebPort(const std::string& address) {
  const int port = std::atoi(address.c_str() + address.rfind(':') + 1);
  return port < 65535 ? port + 1 : port - 1;
}

Status Init(const Invocation& invocation, const Options& options) {
  TG_RETURN_IF_ERROR(CheckOptions(options));
  const fs::path config = options.dir / "coordinator.toml";
  std::error_code error;
  if (fs::exists(config, error)) {
    return AlreadyExists("{} holds a federation already; take another folder",
                         options.dir.native());
  }
  fs::create_directories(options.dir / "keys", error);
  if (!error) fs::permissions(options.dir, fs::perms::owner_all, error);
  if (!error) fs::permissions(options.dir / "keys", fs::perms::owner_all, error);
  if (error) return ErrnoStatus("make", options.dir.native(), error.value());
  TG_ASSIGN_OR_RETURN(const auto sign, crypto::SigningKey::Generate());
  TG_ASSIGN_OR_RETURN(const auto curve, crypto::CurveKeyPair::Generate());
  std::array<uint8_t, 16> id{};
  TG_RETURN_IF_ERROR(crypto::FillRandom(id));
  TG_RETURN_IF_ERROR(crypto::WriteKeyFile(options.dir / "keys" / "sign.key", sign));
  TG_RETURN_IF_ERROR(crypto::WriteKeyFile(options.dir / "keys" / "link.key", curve));
  const std::string text = fmt::format(
      "name = \"{}\"\nfederation = \"{}\"\naddress = \"{}\"  # where sites dial\n"
      "# listen = \"tcp://*:7443\"   # default: every interface, the port of the address\n"
      "web = \"127.0.0.1:{}\"      # status page and Prometheus metrics; \"off\" for none\n"
      "# block_store_gib = 64\n# keep_versions = 8        # adapter versions of a job that can be "
      "exported\n# lease_seconds = 10\n",
      options.name, ToHex(id), options.address, WebPort(options.address));
  TG_RETURN_IF_ERROR(WriteFileDurably(config, AsBytes(text)));
  ordered_json report;
  report["dir"] = options.dir.native();
  report["name"] = options.name;
  report["federation"] = ToHex(id);
  report["address"] = options.address;
  report["key"] = sign.verify_key().ToText();
  report["fingerprint"] = ToHex(sign.verify_key().Fingerprint());
  return Print(invocation, report, Text);
}

// A folder of 64 GiB from a slow disk.
constexpr int64_t kExchangeMillis = 30 * 60'000;

std::string ExchangeText(const ordered_json& report) {
  std::string out = fmt::format("{:<20} {:>6} {:>8} {:>6} {:>8}\n", "SITE", "OFFERS", "RECEIPTS",
                                "LATE", "MESSAGES");
  std::string refused;
  for (const auto& site : report["sites"]) {
    const std::string name = site["site"].get<std::string>();
    if (site["state"] == "connected") {
      out += fmt::format("{:<20} is connected over the network, and left alone\n", name);
    } else {
      out += fmt::format("{:<20} {:>6} {:>8} {:>6} {:>8}\n", name, site["offers"].get<size_t>(),
                         site["receipts"].get<size_t>(), site["late"].get<size_t>(),
                         site["messages"].get<size_t>());
    }
    for (const auto& one : site["refused"]) {
      refused += fmt::format("refused: {}: {}\n", one["file"].get<std::string>(),
                             one["reason"].get<std::string>());
    }
  }
  for (const auto& name : report["not_enrolled"]) {
    out += fmt::format("{:<20} is not enrolled here\n", name.get<std::string>());
  }
  const auto& blocks = report["blocks"];
  out += fmt::format("\nblocks written {}, removed {}", blocks["written"].get<size_t>(),
                     blocks["removed"].get<size_t>());
  if (const auto kept = blocks["kept"].get<size_t>(); kept > 0) {
    out += fmt::format(", kept for offers that could not be read {}", kept);
  }
  return out + "\n" + refused;
}

Status RunExchange(Invocation& invocation, const fs::path& folder, const fs::path& dir) {
  std::error_code error;
  const fs::path canonical = fs::canonical(folder, error);
  if (error) return ErrnoStatus("use the folder", folder.native(), error.value());
  TG_ASSIGN_OR_RETURN(
      const ordered_json report,
      AskCoordinator(dir, {{"verb", "exchange"}, {"folder", canonical.native()}}, kExchangeMillis));
  for (const auto& site : report["sites"]) {
    if (!site["refused"].empty()) invocation.exit_code = static_cast<int>(Code::kDataLoss);
  }
  return Print(invocation, report, ExchangeText);
}

}  // namespace

void RegisterCoordinatorVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "coordinator", "Set up a coordinator (offshore)");
  auto options = std::make_shared<Options>();
  CLI::App* init =
      AddVerb(*group, "init", "Make a federation: its id, keys and coordinator.toml", invocation,
              [&invocation, options] { return Init(invocation, *options); });
  init->add_option("--dir", options->dir, "The coordinator's folder, made if it is not there")
      ->required();
  init->add_option("--name", options->name, "The federation's name")->required();
  init->add_option("--address", options->address, "tcp://HOST:PORT that sites dial")->required();
  auto folder = std::make_shared<fs::path>(), dir = std::make_shared<fs::path>();
  CLI::App* exchange = AddVerb(
      *group, "exchange", "Take from a carried folder what sites sent, and put in what is for them",
      invocation, [&invocation, folder, dir] { return RunExchange(invocation, *folder, *dir); });
  exchange->add_option("FOLDER", *folder, "The folder (docs/formats/air-gap.md)")->required();
  exchange->add_option("--dir", *dir, "The coordinator's folder")->required();
}

}  // namespace tidegate::cli
