// The endpoint with real processes behind it, asked over HTTP as clients ask.
#include "serve/server.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "base/file.h"
#include "base/subprocess.h"

namespace tidegate::serve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kBase = std::string(TIDEGATE_SOURCE_DIR) + "/tests/golden/tiny_llama";

ServerOptions Options() {
  ServerOptions options;
  options.port = 0;
  options.connections = 8;
  options.worker = {std::string(TIDEGATE_BIN_DIR) + "/tidegate-trainer",
                    "answer",
                    "--base",
                    kBase,
                    "--adapter",
                    "tuned=" + kBase + "/adapter_in",
                    "--dtype",
                    "f32",
                    "--threads",
                    "1"};
  return options;
}

class Served : public testing::Test {
 protected:
  void Serve(const ServerOptions& options = Options()) {
    auto server = Server::Start(options);
    if (!server) throw std::runtime_error(server.error().ToString());  // ends the test, not us
    server_ = std::move(*server);
    client_ = std::make_unique<httplib::Client>("127.0.0.1", server_->port());
    client_->set_read_timeout(60);
  }
  httplib::Result Post(const json& body, const std::string& path = "/v1/chat/completions") {
    return client_->Post(path.c_str(), body.dump(), "application/json");
  }
  static json Chat(const std::string& text, const std::string& model = "tiny_llama") {
    return {{"model", model},
            {"messages", json::array({{{"role", "user"}, {"content", text}}})},
            {"temperature", 0},
            {"max_tokens", 8}};
  }

  std::unique_ptr<Server> server_;
  std::unique_ptr<httplib::Client> client_;
};

TEST_F(Served, ModelsChatsAndCompletions) {
  Serve();
  EXPECT_NE(server_->walls().find("seccomp"), std::string::npos);
  const json models = json::parse(client_->Get("/v1/models")->body);
  ASSERT_EQ(models.at("data").size(), 2u);
  EXPECT_EQ(json::parse(client_->Get("/v1/models/tuned")->body).at("id"), "tuned");
  EXPECT_EQ(client_->Get("/v1/models/other")->status, 404);
  EXPECT_EQ(client_->Get("/health")->status, 200);
  const auto whole = Post(Chat("hello"));
  ASSERT_EQ(whole->status, 200) << whole->body;
  const json answer = json::parse(whole->body);
  EXPECT_EQ(answer.at("model"), "tiny_llama");
  EXPECT_EQ(answer.at("usage").at("completion_tokens"), 8);
  EXPECT_EQ(answer.at("choices")[0].at("finish_reason"), "length");
  const json tuned = json::parse(Post(Chat("hello", "tuned"))->body);
  EXPECT_NE(tuned.at("choices"), answer.at("choices"));
  const auto text =
      Post({{"model", "tuned"}, {"prompt", "the water"}, {"max_tokens", 4}}, "/v1/completions");
  ASSERT_EQ(text->status, 200) << text->body;
  EXPECT_EQ(json::parse(text->body).at("object"), "text_completion");
}

// Chunks, put together, are the whole answer.
TEST_F(Served, AStreamSaysWhatTheWholeAnswerSays) {
  Serve();
  json body = Chat("stream");
  const json whole = json::parse(Post(body)->body);
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const auto streamed = Post(body);
  ASSERT_EQ(streamed->status, 200);
  EXPECT_EQ(streamed->get_header_value("Content-Type"), "text/event-stream");
  std::istringstream lines(streamed->body);
  std::string text, last;
  json usage;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("data: ")) continue;
    last = line.substr(6);
    if (last == "[DONE]") break;
    const json chunk = json::parse(last);
    if (chunk.contains("usage")) usage = chunk.at("usage");
    for (const json& choice : chunk.at("choices")) {
      text += choice.at("delta").value("content", "");
    }
  }
  EXPECT_EQ(last, "[DONE]");
  EXPECT_EQ(text, whole.at("choices")[0].at("message").at("content"));
  EXPECT_EQ(usage.at("completion_tokens"), 8);
}

TEST_F(Served, ManyClientsAtOnceGetTheirOwnAnswers) {
  Serve();
  std::vector<std::string> alone;
  for (int i = 0; i < 4; ++i) alone.push_back(Post(Chat("client " + std::to_string(i)))->body);
  std::vector<std::thread> clients;
  std::vector<std::string> together(4);
  for (size_t i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {
      httplib::Client client("127.0.0.1", server_->port());
      client.set_read_timeout(60);
      const auto result = client.Post(
          "/v1/chat/completions", Chat("client " + std::to_string(i)).dump(), "application/json");
      if (result) together[i] = result->body;
    });
  }
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(json::parse(together[i]).at("choices"), json::parse(alone[i]).at("choices"));
  }
}

TEST_F(Served, ErrorsAreBodiesThatClientsKnow) {
  Serve();
  const std::pair<json, int> wrong[] = {
      {Chat("x", "nobody"), 404},
      {Chat("x", std::string(1'500'000, 'm')), 404},
      {{{"model", "tuned"}}, 400},
      {Chat(std::string(20000, 'x')), 400},
  };
  for (const auto& [body, status] : wrong) {
    const auto result = Post(body);
    EXPECT_EQ(result->status, status) << result->body;
    EXPECT_TRUE(json::parse(result->body).at("error").contains("message"));
  }
  EXPECT_EQ(client_->Post("/v1/chat/completions", "{", "application/json")->status, 400);
  EXPECT_EQ(client_->Get("/v1/nothing")->status, 404);
  EXPECT_EQ(Post(Chat("still there"))->status, 200);
}

TEST_F(Served, AnotherHostNameIsRefused) {
  Serve();
  const httplib::Headers evil = {{"Host", "evil.example:80"}};
  EXPECT_EQ(client_->Get("/v1/models", evil)->status, 403);
}

// A page of another address may send what a browser sends without asking first.
TEST_F(Served, APageOfAnotherAddressIsRefused) {
  Serve();
  const auto post = [this](const std::string& origin) {
    return client_->Post("/v1/chat/completions", {{"Origin", origin}}, Chat("hello").dump(),
                         "text/plain");
  };
  EXPECT_EQ(post("http://evil.example")->status, 403);
  EXPECT_EQ(post("null")->status, 403);
  EXPECT_EQ(post("http://127.0.0.1:" + std::to_string(server_->port()))->status, 200);
}

TEST_F(Served, AKeyIsAskedFor) {
  ServerOptions options = Options();
  options.api_key = "a-key-of-this-test";
  Serve(options);
  EXPECT_EQ(client_->Get("/v1/models")->status, 401);
  EXPECT_EQ(client_->Get("/health")->status, 200);
  const httplib::Headers wrong = {{"Authorization", "Bearer a-key-of-this-tesT"}};
  EXPECT_EQ(client_->Get("/v1/models", wrong)->status, 401);
  const httplib::Headers right = {{"Authorization", "Bearer a-key-of-this-test"}};
  EXPECT_EQ(client_->Get("/v1/models", right)->status, 200);
  options.api_key.clear();
  options.host = "0.0.0.0";
  const auto open = Server::Start(options);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code(), Code::kPermissionDenied);
}

// Whose parent is this process.
std::vector<pid_t> Children() {
  std::vector<pid_t> out;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().native();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string text;
    std::getline(stat, text);
    const size_t end = text.rfind(')');
    int parent = 0;
    char state = 0;
    if (end != std::string::npos &&
        std::sscanf(text.c_str() + end, ") %c %d", &state, &parent) == 2 && parent == ::getpid() &&
        state != 'Z') {
      out.push_back(std::stoi(name));
    }
  }
  return out;
}

TEST_F(Served, AKilledWorkerIsStartedAgain) {
  Serve();
  ASSERT_EQ(Post(Chat("before"))->status, 200);
  const auto children = Children();
  ASSERT_EQ(children.size(), 1u);
  ::kill(children[0], SIGKILL);
  for (int i = 0; i < 500 && client_->Get("/health")->status == 200; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(Post(Chat("between"))->status, 503);
  ASSERT_TRUE(server_->KeepAlive().ok());
  EXPECT_EQ(Post(Chat("after"))->status, 200);
}

// A client that goes away takes its question back: the next one does not wait for the rest.
TEST_F(Served, AClientThatLeavesIsNotAnsweredToTheEnd) {
  Serve();
  json body = Chat("long");
  body["stream"] = true;
  body["max_tokens"] = 200;
  body["stop"] = json::array({"never said"});
  int pieces = 0;
  httplib::Request request;
  request.method = "POST";
  request.path = "/v1/chat/completions";
  request.headers = {{"Content-Type", "application/json"}};
  request.body = body.dump();
  request.content_receiver = [&](const char*, size_t, uint64_t, uint64_t) { return ++pieces < 3; };
  (void)client_->send(request);
  EXPECT_EQ(pieces, 3);
  client_ = std::make_unique<httplib::Client>("127.0.0.1", server_->port());
  EXPECT_EQ(Post(Chat("next"))->status, 200);
}

TEST(ServeStart, EndsItsWaitForTheModelWhenItIsTold) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd read(ends[0]), write(ends[1]);
  ASSERT_EQ(::write(write.get(), "", 1), 1);
  ServerOptions options;
  options.port = 0;
  options.worker = {"/bin/sleep", "600"};  // is never ready
  options.cancel = read.get();
  const auto started = Server::Start(options);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), Code::kCancelled) << started.error().ToString();
}

TEST(ServeProgram, ServesUntilASignalAndNamesWhatIsWrong) {
  const std::string program = std::string(TIDEGATE_BIN_DIR) + "/tidegate-serve";
  const auto run = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {program};
    words.insert(words.end(), more.begin(), more.end());
    return RunCommand(words, 60'000).value();
  };
  EXPECT_EQ(run({"--help"}).exit_code, 0);
  EXPECT_EQ(run({}).exit_code, 64);
  EXPECT_EQ(run({"--base", "/nonexistent", "--port", "0"}).exit_code, 9);
  std::string name = (fs::temp_directory_path() / "tg_serve_XXXXXX").native();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const fs::path dir = name;
  std::ofstream(dir / "key") << "a-key-of-this-test\n";
  ::chmod((dir / "key").c_str(), 0644);
  const auto open = run({"--base", kBase, "--port", "0", "--api_key_file", dir / "key"});
  EXPECT_EQ(open.exit_code, 6);
  EXPECT_NE(open.errors.find("chmod 600"), std::string::npos);
  ::chmod((dir / "key").c_str(), 0600);
  auto child = ChildProcess::Start({program, "--base", kBase, "--port", "0", "--dtype", "f32",
                                    "--threads", "1", "--api_key_file", dir / "key"},
                                   dir / "log")
                   .value();
  std::string log;
  for (int i = 0; i < 3000 && log.find("/v1 ") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::ifstream file(dir / "log");
    log.assign(std::istreambuf_iterator<char>(file), {});
  }
  EXPECT_NE(log.find("serving tiny_llama on http://127.0.0.1:"), std::string::npos) << log;
  child.Signal(SIGTERM);
  EXPECT_EQ(child.Wait(60'000).value_or(-1), 0);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace tidegate::serve
