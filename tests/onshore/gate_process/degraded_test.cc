// A trainer whose machine lacks a wall, each in turn: the ledger names it with step and errno; a
// policy that demands it has nothing trained, one that does not goes on.
#include "gate_core_fixture.h"

#include "gate/ledger_entry.h"

namespace tidegate::onshore {
namespace {

struct Lack {
  Wall wall;
  int error;
  const char* step;
};
constexpr Lack kLacks[] = {
    {Wall::kNetns, EPERM, "unshare"},
    {Wall::kNetns, ENOSPC, "unshare"},
    {Wall::kLandlockFs, EOPNOTSUPP, "landlock_create_ruleset"},
    {Wall::kLandlockFs, ENOSYS, "landlock_create_ruleset"},
    {Wall::kLandlockFs, E2BIG, "landlock_create_ruleset"},
    {Wall::kSeparateUids, EPERM, "setresuid"},
    {Wall::kLandlockNet, EOPNOTSUPP, "landlock_abi_below_4"},
    {Wall::kLandlockScope, EOPNOTSUPP, "landlock_abi_below_6"},
    {Wall::kMdwe, EINVAL, "prctl(PR_SET_MDWE)"},
    {Wall::kChroot, EPERM, "chroot"},
};

class DegradedTrainer : public GateCoreTest {
 protected:
  static std::string StatementLacking(const Lack& lack) {
    IsolationStatement statement;
    statement.report.role = Role::kTrainer;
    for (WallRow& row : statement.report.rows) row.state = WallState::kUp;
    WallRow& row = statement.report.row(lack.wall);
    row.state = WallState::kMissing;
    row.error = lack.error;
    std::strncpy(row.step, lack.step, sizeof(row.step) - 1);
    return EncodeStatement(statement);
  }
  // A round is open for a trainer that lacks the wall; what the gate says to it.
  GateEffects OpenFor(const Lack& lack, bool demanded) {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    const size_t at = sample_.find("demanded = [");
    EXPECT_NE(at, std::string::npos);
    const size_t end = sample_.find(']', at) + 1;
    const std::string walls =
        demanded ? fmt::format("demanded = [\"seccomp\", \"{}\"]", WallName(lack.wall))
                 : "demanded = [\"seccomp\"]";
    policy_ = sample_;
    policy_.replace(at, end - at, walls);
    GateEffects all = Start(false);
    Add(&all, core_->OnHello(To::kTrainer));
    Add(&all, core_->OnIsolation(To::kTrainer, StatementLacking(lack)));
    const GateEffects job = Bulk(To::kLink, BulkKind::kJob, JobBytes());
    all.insert(all.end(), job.begin(), job.end());
    const GateEffects round = OpenRound(1);
    all.insert(all.end(), round.begin(), round.end());
    return all;
  }
  std::string LedgerText() const {
    std::string text;
    for (const auto& leaf : core_->ledger().leaves()) {
      if (leaf.entry.type != gate::LeafType::kIsolation) continue;
      const auto isolation = protocols::Decode<gate::IsolationLeaf>(leaf.entry.body.items);
      EXPECT_TRUE(isolation.has_value());
      text += isolation->statement.text;
    }
    return text;
  }

  const std::string sample_ = policy_;
};

TEST_F(DegradedTrainer, IsNamedInTheLedgerAndTrainsOnlyWhereTheWallIsNotDemanded) {
  for (const Lack& lack : kLacks) {
    const std::string line =
        fmt::format("wall {} missing {} {}\n", WallName(lack.wall), lack.error, lack.step);
    SCOPED_TRACE(line);
    const GateEffects goes_on = OpenFor(lack, false);
    EXPECT_NE(LedgerText().find(line), std::string::npos) << LedgerText();
    EXPECT_NE(MessageOf(goes_on, IpcType::kRoundStart), nullptr);
    EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 0);

    const GateEffects refused = OpenFor(lack, true);
    EXPECT_NE(LedgerText().find(line), std::string::npos);
    EXPECT_EQ(MessageOf(refused, IpcType::kRoundStart), nullptr);
    EXPECT_EQ(BulkOf(refused, BulkKind::kParameters), nullptr) << "not even the adapter";
    EXPECT_NE(LastRefusal().find("what=walls"), std::string::npos) << LastRefusal();
    EXPECT_NE(LastRefusal().find(WallName(lack.wall)), std::string::npos) << LastRefusal();
  }
}

}  // namespace
}  // namespace tidegate::onshore
