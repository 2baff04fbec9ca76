// Reads event files apart from the code that writes them: frames, both checksums of each, and the
// few protobuf fields that a run uses.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace tidegate::runlog {

// CRC-32C bit by bit, and TensorFlow's mask.
inline uint32_t SlowCrc32c(ByteSpan bytes) {
  uint32_t crc = ~0u;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return ~crc;
}
inline uint32_t SlowMaskedCrc(ByteSpan bytes) {
  const uint32_t crc = SlowCrc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

struct ReadEvent {
  double wall_time = 0;
  int64_t step = 0;
  std::string file_version;
  bool session_start = false;
  std::vector<std::pair<std::string, float>> scalars;
};

// The fields of one protobuf message: number, and the value or the bytes.
struct ReadField {
  uint64_t number = 0, value = 0;
  ByteSpan bytes;
};
inline std::vector<ReadField> FieldsOf(ByteSpan message) {
  std::vector<ReadField> fields;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < message.size(); shift += 7) {
      const uint8_t byte = message[at++];
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    ReadField field;
    field.number = key >> 3;
    if ((key & 7) == 0) {
      field.value = varint();
    } else if ((key & 7) == 2) {
      const uint64_t size = varint();
      EXPECT_LE(size, message.size() - at);
      field.bytes = message.subspan(at, size);
      at += size;
    } else {
      EXPECT_TRUE((key & 7) == 1 || (key & 7) == 5) << key;
      const size_t size = (key & 7) == 1 ? 8 : 4;
      for (size_t i = 0; i < size; ++i) {
        field.value |= static_cast<uint64_t>(message[at + i]) << (8 * i);
      }
      at += size;
    }
    fields.push_back(field);
  }
  return fields;
}

inline ReadEvent EventOf(ByteSpan message) {
  ReadEvent event;
  for (const ReadField& field : FieldsOf(message)) {
    if (field.number == 1) event.wall_time = std::bit_cast<double>(field.value);
    if (field.number == 2) event.step = static_cast<int64_t>(field.value);
    if (field.number == 3) event.file_version = AsText(field.bytes);
    if (field.number == 7) event.session_start = FieldsOf(field.bytes).at(0).value == 1;
    if (field.number != 5) continue;
    for (const ReadField& value : FieldsOf(field.bytes)) {
      std::pair<std::string, float> scalar;
      for (const ReadField& part : FieldsOf(value.bytes)) {
        if (part.number == 1) scalar.first = AsText(part.bytes);
        if (part.number == 2) {
          scalar.second = std::bit_cast<float>(static_cast<uint32_t>(part.value));
        }
      }
      event.scalars.push_back(scalar);
    }
  }
  return event;
}

inline std::vector<ReadEvent> ReadEvents(ByteSpan file) {
  std::vector<ReadEvent> events;
  while (!file.empty()) {
    EXPECT_GE(file.size(), 16u);
    const uint64_t size = LoadLe64(file.data());
    EXPECT_EQ(LoadLe32(file.data() + 8), SlowMaskedCrc(file.first(8)));
    EXPECT_LE(size, file.size() - 16);
    if (file.size() < 16 || size > file.size() - 16) break;
    const ByteSpan data = file.subspan(12, size);
    EXPECT_EQ(LoadLe32(file.data() + 12 + size), SlowMaskedCrc(data));
    events.push_back(EventOf(data));
    file = file.subspan(16 + size);
  }
  return events;
}

}  // namespace tidegate::runlog
