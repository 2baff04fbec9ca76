#include "onshore/sandbox/statement.h"

#include <gtest/gtest.h>

#include <cstring>

namespace tidegate::onshore {
namespace {

TryRow Row(std::string_view name, int control, int walled, Verdict verdict) {
  TryRow row;
  name.copy(row.name, sizeof(row.name) - 1);
  row.control = control;
  row.walled = walled;
  row.verdict = verdict;
  return row;
}

IsolationStatement Example() {
  IsolationStatement statement;
  statement.report.role = Role::kLink;
  statement.report.landlock_abi = 2;
  statement.report.passrights_error = 92;
  std::strcpy(statement.report.kernel, "6.1.0-44-amd64");
  for (WallRow& row : statement.report.rows) row.state = WallState::kUp;
  WallRow& mdwe = statement.report.row(Wall::kMdwe);
  mdwe.state = WallState::kMissing;
  mdwe.error = 22;
  std::strcpy(mdwe.step, "prctl(PR_SET_MDWE)");
  statement.report.row(Wall::kSeparateUids).state = WallState::kNotAsked;
  statement.fds = {{3, FdKind::kChannel}, {4, FdKind::kReadOnlyFile}};
  statement.pinned_address = "192.0.2.7:7443";
  statement.proxy = "198.51.100.1:1080";
  statement.devices = {"/dev/nvidiactl", "/dev/nvidia0"};
  statement.rows = {Row("socket_udp", 0, 1, Verdict::kRefused),
                    Row("x32_socket", 38, 38, Verdict::kAbsent),
                    Row("int80_socket", -11, -11, Verdict::kAbsent)};
  return statement;
}

TEST(StatementTest, TheTextIsTheDocumentedOne) {
  EXPECT_EQ(EncodeStatement(Example()),
            "tidegate isolation statement 1\n"
            "role link\n"
            "kernel 6.1.0-44-amd64\n"
            "landlock_abi 2\n"
            "passrights_error 92\n"
            "wall netns up 0 -\n"
            "wall seccomp up 0 -\n"
            "wall landlock_fs up 0 -\n"
            "wall chroot up 0 -\n"
            "wall pinned_address up 0 -\n"
            "wall separate_uids not_asked 0 -\n"
            "wall landlock_net up 0 -\n"
            "wall landlock_scope up 0 -\n"
            "wall mdwe missing 22 prctl(PR_SET_MDWE)\n"
            "fd 3 channel\n"
            "fd 4 read_only_file\n"
            "pinned 192.0.2.7:7443\n"
            "proxy 198.51.100.1:1080\n"
            "device /dev/nvidiactl\n"
            "device /dev/nvidia0\n"
            "try socket_udp 0 1 refused\n"
            "try x32_socket 38 38 absent\n"
            "try int80_socket -11 -11 absent\n"
            "end 3\n");
}

TEST(StatementTest, DecodingIsTheInverse) {
  const std::string text = EncodeStatement(Example());
  const Result<IsolationStatement> decoded = DecodeStatement(text);
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(EncodeStatement(*decoded), text);
  EXPECT_EQ(decoded->rows.size(), 3U);
  EXPECT_EQ(decoded->rows[2].control, -11);
  EXPECT_EQ(decoded->report.row(Wall::kMdwe).error, 22);
}

TEST(StatementTest, EveryCutAndEveryChangedByteIsRefusedOrStillOneForm) {
  const std::string text = EncodeStatement(Example());
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(DecodeStatement(text.substr(0, size))) << size;
  }
  EXPECT_FALSE(DecodeStatement(text + "\n"));
  EXPECT_FALSE(DecodeStatement(text + "try late 0 1 refused\n"));
  for (size_t at = 0; at < text.size(); ++at) {
    for (char byte : {' ', '\n', '0', 'x', '\0', '\xff'}) {
      std::string changed = text;
      if (changed[at] == byte) continue;
      changed[at] = byte;
      const Result<IsolationStatement> decoded = DecodeStatement(changed);
      if (decoded) {
        EXPECT_EQ(EncodeStatement(*decoded), changed);
      }
    }
  }
}

TEST(StatementTest, ALimitIsNamed) {
  const Result<IsolationStatement> big = DecodeStatement(std::string(kMaxStatementBytes + 1, 'x'));
  ASSERT_FALSE(big);
  EXPECT_NE(big.error().message().find("65536"), std::string::npos);
  IsolationStatement many = Example();
  many.rows.assign(kMaxTryRows + 1, Row("x", 0, 1, Verdict::kRefused));
  EXPECT_FALSE(DecodeStatement(EncodeStatement(many)));
}

TEST(WallSetTest, NamesAndSetsAgree) {
  const Result<WallSet> set = ParseWallSet("mdwe, netns seccomp");
  ASSERT_TRUE(set);
  EXPECT_EQ(*set, (WallSet{Wall::kNetns, Wall::kSeccomp, Wall::kMdwe}));
  EXPECT_EQ(set->ToString(), "netns seccomp mdwe");
  EXPECT_EQ(ParseWallSet("")->ToString(), "");
  EXPECT_EQ(ParseWallSet(kDefaultDemanded.ToString()), kDefaultDemanded);
  EXPECT_NE(ParseWallSet("netns netz").error().message().find("'netz' is not a wall"),
            std::string::npos);
  EXPECT_NE(ParseWallSet("netns,netns").error().message().find("twice"), std::string::npos);
  for (Role role : {Role::kTrainer, Role::kGate, Role::kLink, Role::kCarrier}) {
    EXPECT_EQ(ParseRole(RoleName(role)), role);
  }
  EXPECT_FALSE(ParseRole("supervisor"));
}

TEST(CheckDemandedTest, WhatTheRoleCannotHaveIsNotDemandedOfIt) {
  WallReport report = Example().report;
  report.role = Role::kTrainer;
  report.row(Wall::kPinnedAddress).state = WallState::kNotForRole;
  EXPECT_TRUE(CheckDemanded(kDefaultDemanded, report).ok());
  const Status missing = CheckDemanded({Wall::kMdwe, Wall::kSeparateUids}, report);
  EXPECT_EQ(missing.code(), Code::kPermissionDenied);
  EXPECT_NE(missing.message().find("mdwe: prctl(PR_SET_MDWE): Invalid argument (errno 22); use a"),
            std::string::npos)
      << missing.message();
  EXPECT_NE(missing.message().find("separate_uids: not asked for"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::onshore
