// An encoded update against a layout. The first byte says whether the layout is the golden one or
// comes first in the input (two bytes of length, then its encoding). What parses is finite, in
// range and inside the layout's buffer.
#include "protocols/update.h"

#include <cmath>

#include "fuzz.h"
#include "tests/protocols/update_sample.h"

namespace tidegate::fuzz {
namespace {

std::string WithLayout(const protocols::Layout& layout, const std::string& update) {
  const Bytes encoded = protocols::Encode(layout);
  uint8_t length[8];
  StoreLe64(length, encoded.size());
  return '\1' + std::string(length, length + 2) + Text(encoded) + update;
}

}  // namespace

Target Describe() {
  Target target;
  for (const protocols::GoldenUpdate& golden : protocols::kGoldenUpdates) {
    const std::string update = WireVector(golden.name);
    target.seeds.push_back('\0' + update);
    target.seeds.push_back(WithLayout(protocols::GoldenLayout(), update));
  }
  return target;
}

void Parse(ByteSpan bytes, const protocols::Layout& layout) {
  const auto view = protocols::UpdateView::Parse(bytes, layout);
  if (!view) return;
  const protocols::UpdateHeader& header = view->header();
  Require(bytes.size() == protocols::UpdateBytes(layout, header.groups, header.codec),
          "an update has the bytes of its layout");
  uint64_t end = 0, values = 0;
  for (const protocols::LayoutTensor& t : layout.tensors.items) end += uint64_t{t.rows} * t.cols;
  for (const protocols::UpdateTensor& t : view->tensors()) {
    protocols::ForEachValue(t, [&](uint64_t position, double value) {
      ++values;
      Require(position < end, "a value is in the layout");
      Require(std::abs(value) < protocols::kMaxUpdateValue, "a value is in range");
      Require(value != 0 || !std::signbit(value), "no value is a negative zero");
    });
  }
  Require(values == header.values, "an update has the values that its header says");
  Require(std::isfinite(view->L2Norm()), "an update has a norm");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size < 3) return 0;
  if (data[0] % 2 == 0) {
    static const protocols::Layout golden = protocols::GoldenLayout();
    fuzz::Parse({data + 1, size - 1}, golden);
    return 0;
  }
  const ByteSpan rest(data + 3, size - 3);
  const size_t length = std::min<size_t>(LoadLe16(data + 1), rest.size());
  const auto layout = protocols::Decode<protocols::Layout>(rest.first(length));
  if (layout) fuzz::Parse(rest.subspan(length), *layout);
  return 0;
}
