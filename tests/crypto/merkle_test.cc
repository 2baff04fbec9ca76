// RFC 6962 trees: the reference answers of Certificate Transparency, then every size up to 40.
#include "crypto/merkle.h"

#include "hex.h"

namespace tidegate::crypto {
namespace {

std::vector<Digest> ReferenceLeaves(size_t size) {
  const std::string_view entries[] = {"",
                                      "00",
                                      "10",
                                      "2021",
                                      "3031",
                                      "40414243",
                                      "5051525354555657",
                                      "606162636465666768696a6b6c6d6e6f"};
  std::vector<Digest> leaves;
  for (size_t i = 0; i < size; ++i) leaves.push_back(MerkleLeafHash(Hex(entries[i])));
  return leaves;
}

std::vector<Digest> NumberedLeaves(size_t size) {
  std::vector<Digest> leaves;
  for (size_t i = 0; i < size; ++i) {
    leaves.push_back(MerkleLeafHash(AsBytes(fmt::format("entry {}", i))));
  }
  return leaves;
}

std::vector<std::string> AllHex(const std::vector<Digest>& digests) {
  std::vector<std::string> out;
  for (const Digest& digest : digests) out.push_back(ToHex(digest));
  return out;
}

constexpr std::string_view kRoots[] = {
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
};

TEST(Merkle, RootsMatchTheReferenceAtEverySize) {
  MerkleFrontier frontier;
  const auto leaves = ReferenceLeaves(8);
  for (size_t n = 0; n <= 8; ++n) {
    EXPECT_EQ(ToHex(frontier.Root()), kRoots[n]) << n;
    EXPECT_EQ(ToHex(MerkleRoot(std::span(leaves).first(n))), kRoots[n]) << n;
    if (n < 8) frontier.Append(leaves[n]);
  }
}

TEST(Merkle, InclusionProofsMatchTheReference) {
  const struct {
    size_t index, size;
    std::vector<std::string> proof;
  } cases[] = {
      {0, 1, {}},
      {0,
       8,
       {"96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"}},
      {5,
       8,
       {"bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"}},
      {2, 3, {"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"}},
      {1,
       5,
       {"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"}},
  };
  for (const auto& c : cases) {
    const auto proof = MerkleInclusionProof(ReferenceLeaves(c.size), c.index);
    ASSERT_TRUE(proof);
    EXPECT_EQ(AllHex(*proof), c.proof) << c.index << " of " << c.size;
  }
}

TEST(Merkle, ConsistencyProofsMatchTheReference) {
  const struct {
    size_t old_size, size;
    std::vector<std::string> proof;
  } cases[] = {
      {1, 1, {}},
      {1,
       8,
       {"96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"}},
      {6,
       8,
       {"0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"}},
      {2,
       5,
       {"5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"}},
  };
  for (const auto& c : cases) {
    const auto proof = MerkleConsistencyProof(ReferenceLeaves(c.size), c.old_size);
    ASSERT_TRUE(proof);
    EXPECT_EQ(AllHex(*proof), c.proof) << c.old_size << " to " << c.size;
  }
}

TEST(Merkle, EveryInclusionProofVerifiesAndNoAlteredOneDoes) {
  for (size_t n = 1; n <= 40; ++n) {
    const auto leaves = NumberedLeaves(n);
    const Digest root = MerkleRoot(leaves);
    for (size_t i = 0; i < n; ++i) {
      const auto proof = MerkleInclusionProof(leaves, i);
      ASSERT_TRUE(proof);
      const auto verify = [&](uint64_t index, const Digest& leaf, std::vector<Digest> p) {
        return VerifyMerkleInclusion(leaf, index, n, p, root).code();
      };
      ASSERT_EQ(verify(i, leaves[i], *proof), Code::kOk) << i << " of " << n;
      EXPECT_EQ(verify(n, leaves[i], *proof), Code::kUnauthenticated);
      Digest wrong = leaves[i];
      wrong[0] ^= 1;
      EXPECT_EQ(verify(i, wrong, *proof), Code::kUnauthenticated);
      if (n > 1) {
        EXPECT_EQ(verify((i + 1) % n, leaves[i], *proof), Code::kUnauthenticated);
      }
      auto longer = *proof;
      longer.push_back(root);
      EXPECT_EQ(verify(i, leaves[i], longer), Code::kUnauthenticated);
      for (size_t k = 0; k < proof->size(); ++k) {
        auto altered = *proof;
        altered[k][31] ^= 0x80;
        EXPECT_EQ(verify(i, leaves[i], altered), Code::kUnauthenticated);
      }
      if (!proof->empty()) {
        auto shorter = *proof;
        shorter.pop_back();
        EXPECT_EQ(verify(i, leaves[i], shorter), Code::kUnauthenticated);
      }
    }
  }
}

TEST(Merkle, EveryConsistencyProofVerifiesAndNoAlteredOneDoes) {
  const auto all = NumberedLeaves(33);
  for (size_t n = 0; n <= all.size(); ++n) {
    const auto leaves = std::span(all).first(n);
    const Digest root = MerkleRoot(leaves);
    for (size_t m = 0; m <= n; ++m) {
      const Digest old_root = MerkleRoot(leaves.first(m));
      const auto proof = MerkleConsistencyProof(leaves, m);
      ASSERT_TRUE(proof);
      const auto verify = [&](const Digest& from, const Digest& to, std::vector<Digest> p) {
        return VerifyMerkleConsistency(m, from, n, to, p).code();
      };
      ASSERT_EQ(verify(old_root, root, *proof), Code::kOk) << m << " to " << n;
      Digest wrong = old_root;
      wrong[5] ^= 1;
      EXPECT_EQ(verify(wrong, root, *proof), Code::kUnauthenticated);
      if (m > 0) {
        wrong = root;
        wrong[5] ^= 1;
        EXPECT_EQ(verify(old_root, wrong, *proof), Code::kUnauthenticated);
      }
      auto longer = *proof;
      longer.push_back(root);
      EXPECT_EQ(verify(old_root, root, longer), Code::kUnauthenticated);
      for (size_t k = 0; k < proof->size(); ++k) {
        auto altered = *proof;
        altered[k][0] ^= 1;
        EXPECT_EQ(verify(old_root, root, altered), Code::kUnauthenticated) << m << " " << n;
      }
      if (!proof->empty()) {
        auto shorter = *proof;
        shorter.pop_back();
        EXPECT_EQ(verify(old_root, root, shorter), Code::kUnauthenticated);
      }
    }
  }
}

TEST(Merkle, ARewrittenEntryHasNoConsistencyProof) {
  auto leaves = NumberedLeaves(10);
  const Digest old_root = MerkleRoot(std::span(leaves).first(7));
  leaves[3] = MerkleLeafHash(AsBytes("rewritten"));
  const auto proof = MerkleConsistencyProof(leaves, 7);
  ASSERT_TRUE(proof);
  EXPECT_EQ(VerifyMerkleConsistency(7, old_root, 10, MerkleRoot(leaves), *proof).code(),
            Code::kUnauthenticated);
  EXPECT_EQ(VerifyMerkleConsistency(10, old_root, 7, old_root, {}).code(), Code::kUnauthenticated);
}

TEST(Merkle, AProofForOtherSizesIsRefusedThoughTheHashesMatch) {
  const auto leaves = NumberedLeaves(2);
  const Digest root = MerkleRoot(leaves);
  const auto proof = MerkleConsistencyProof(leaves, 1);
  ASSERT_TRUE(proof);
  EXPECT_TRUE(VerifyMerkleConsistency(1, leaves[0], 2, root, *proof).ok());
  for (const uint64_t size : {3, 4, 5, 1000}) {
    EXPECT_EQ(VerifyMerkleConsistency(1, leaves[0], size, root, *proof).code(),
              Code::kUnauthenticated)
        << size;
  }
}

TEST(Merkle, AFrontierGoesOnFromItsPeaks) {
  const auto leaves = NumberedLeaves(100);
  MerkleFrontier whole;
  for (size_t i = 0; i < leaves.size(); ++i) {
    auto restored = MerkleFrontier::Restore(whole.size(), whole.peaks());
    ASSERT_TRUE(restored);
    EXPECT_EQ(restored->Root(), whole.Root());
    whole.Append(leaves[i]);
    restored->Append(leaves[i]);
    EXPECT_EQ(restored->Root(), MerkleRoot(std::span(leaves).first(i + 1)));
  }
  EXPECT_EQ(MerkleFrontier::Restore(3, {Digest{}}).error().code(), Code::kInvalidArgument);
}

TEST(Merkle, QuestionsBeyondTheLogAreRefused) {
  const auto leaves = NumberedLeaves(3);
  EXPECT_EQ(MerkleInclusionProof(leaves, 3).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(MerkleInclusionProof({}, 0).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(MerkleConsistencyProof(leaves, 4).error().code(), Code::kInvalidArgument);
  // The largest numbers a peer can send end in a refusal, not in a shift by 64.
  EXPECT_EQ(VerifyMerkleInclusion({}, 0, UINT64_MAX, {}, {}).code(), Code::kUnauthenticated);
  EXPECT_EQ(VerifyMerkleInclusion({}, UINT64_MAX - 1, UINT64_MAX, leaves, {}).code(),
            Code::kUnauthenticated);
  EXPECT_EQ(VerifyMerkleConsistency(UINT64_MAX - 1, {}, UINT64_MAX, {}, leaves).code(),
            Code::kUnauthenticated);
  EXPECT_EQ(VerifyMerkleConsistency(uint64_t{1} << 63, {}, UINT64_MAX, {}, leaves).code(),
            Code::kUnauthenticated);
}

}  // namespace
}  // namespace tidegate::crypto
