// The parsed chat template. Internal to src/model. Immutable after parsing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tidegate::model::chat {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind : uint8_t {
  kText,     // text
  kNumber,   // number
  kBoolean,  // number
  kNone,
  kName,       // text
  kList,       // children
  kAttribute,  // children[0].text
  kIndex,      // children[0][children[1]]
  kSlice,      // children[0][children[1]:children[2]:children[3]], any of the three may be null
  kCall,       // children[0](children[1...], keywords)
  kFilter,     // children[0] | text(children[1...], keywords)
  kTest,       // children[0] is text
  kNot,        // children[0]
  kNegate,     // children[0]
  kAnd,        // two children
  kOr,         // two children
  kBinary,     // children[0] text children[1], one of + - * // % ~
  kCompare,    // children[0] operators[0] children[1] operators[1] ..., chained as in Python
  kCondition,  // children[0] if children[1] else children[2], which may be null
};

struct Expr {
  ExprKind kind;
  int line;
  int depth = 1;  // of the tree below, bounded: evaluation and destruction recurse
  std::string text = {};
  int64_t number = 0;
  std::vector<ExprPtr> children = {};
  std::vector<std::pair<std::string, ExprPtr>> keywords = {};
  std::vector<std::string> operators = {};
};

struct Node;
using Nodes = std::vector<Node>;

enum class NodeKind : uint8_t {
  kData,        // text
  kOutput,      // {{ expr }}
  kIf,          // branches, the last without a condition where there is an else
  kFor,         // for targets in expr: body, else: other
  kSet,         // set targets[0][.attribute] = expr
  kGeneration,  // {% generation %} body
};

struct Branch {
  ExprPtr condition;
  Nodes body;
};

struct Node {
  NodeKind kind;
  int line;
  std::string text = {};       // data
  std::string attribute = {};  // of set
  std::vector<std::string> targets = {};
  ExprPtr expr = nullptr;
  std::vector<Branch> branches = {};
  Nodes body = {};
  Nodes other = {};
};

struct Program {
  Nodes nodes;
  bool has_generation = false;
};

// `what` names the template in errors.
Result<Program> ParseProgram(std::string_view text, std::string_view what);

}  // namespace tidegate::model::chat
