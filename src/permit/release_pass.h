// ReleasePass: the right to sign that something may leave a site. crypto::SigningKey::SignRelease
// asks for one, and no other call signs in the domain of releases. Only the gate's sealing has it.
#pragma once

namespace tidegate::gate {
class Sealing;
}

namespace tidegate::permit {

class ReleasePass {
 private:
  friend class gate::Sealing;
  ReleasePass() {}  // NOLINT: "= default" would let anybody write ReleasePass{}
};

}  // namespace tidegate::permit
