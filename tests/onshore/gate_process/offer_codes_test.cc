// The table of final codes in protocols/messages.md is what the gate does.
#include <gtest/gtest.h>

#include <sstream>

#include "base/file.h"
#include "onshore/gate_process/gate_core.h"
#include "protocols/header.h"

namespace tidegate::onshore {
namespace {

std::vector<std::string> Cells(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream stream(line);
  for (std::string cell; std::getline(stream, cell, '|');) {
    const size_t first = cell.find_first_not_of(' ');
    cells.push_back(first == std::string::npos
                        ? ""
                        : cell.substr(first, cell.find_last_not_of(' ') - first + 1));
  }
  return cells;
}

bool Final(int code, protocols::MessageType about) {
  return IsFinal({{}, static_cast<uint16_t>(about), static_cast<uint8_t>(code)});
}

TEST(OfferCodes, AreFinalAsTheTableOfTheMessagesSays) {
  const auto text = ReadTextFile(TIDEGATE_SOURCE_DIR "/protocols/messages.md", 1 << 20);
  ASSERT_TRUE(text.has_value());
  std::istringstream page(*text);
  int rows = 0;
  for (std::string line; std::getline(page, line);) {
    const std::vector<std::string> cells = Cells(line);
    if (cells.size() < 6 || (cells[3] != "final" && cells[3] != "again")) continue;
    const int code = std::stoi(cells[1]);
    EXPECT_EQ(CodeName(static_cast<Code>(code)), cells[2]);
    EXPECT_EQ(Final(code, protocols::MessageType::kOffer), cells[3] == "final") << line;
    EXPECT_EQ(Final(code, protocols::MessageType::kCommit), cells[4] == "final") << line;
    EXPECT_EQ(code, ++rows) << "a code is missing before this line: " << line;
  }
  EXPECT_EQ(rows, static_cast<int>(Code::kInternal)) << "every code of base/status.h has its row";
  for (int code = rows + 1; code < 256; ++code) {
    EXPECT_FALSE(Final(code, protocols::MessageType::kOffer)) << code;
  }
}

}  // namespace
}  // namespace tidegate::onshore
