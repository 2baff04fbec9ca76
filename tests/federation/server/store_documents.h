// Made-up documents and rows for tests of the store.
#pragma once

#include <gtest/gtest.h>

#include "federation/server/store.h"

namespace tidegate::federation {

inline protocols::Signed Document(uint8_t fill) {
  protocols::Signed document;
  document.body.items.assign(40, fill);
  document.signature.fill(fill);
  return document;
}

inline protocols::Id16 Job() {
  protocols::Id16 id;
  id.fill(7);
  return id;
}

inline StoredSite Site(const std::string& name, uint8_t key) {
  StoredSite site;
  site.name = name;
  site.sign_key.fill(key);
  site.curve_key.fill(static_cast<uint8_t>(key + 100));
  site.approval = Document(key);
  site.approved_unix_millis = 5;
  return site;
}

inline StoredUpdate UpdateOf(const std::string& site, uint8_t content) {
  StoredUpdate update;
  update.key = {Job(), 1, 0, site};
  update.content.fill(content);
  update.weight = 3;
  update.release = Document(content);
  update.accepted_unix_millis = 11;
  return update;
}

inline UpdateAccepted AcceptedEvent(const StoredUpdate& update) {
  return {update.key.site.text, update.key.round, {update.content, update.weight}};
}

inline JobState Replay(Store& store) {
  JobState state = *NewJob({{"a", "b"}, 1, 1, 1000, 1});
  const auto events = store.Events(Job());
  EXPECT_TRUE(events.has_value());
  if (!events) return state;
  for (const Event& event : *events) {
    auto next = Step(state, event);
    EXPECT_TRUE(next.has_value()) << next.error().ToString();
    if (next) state = next->state;
  }
  return state;
}

}  // namespace tidegate::federation
