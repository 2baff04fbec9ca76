/* For tests in C: a function returns 1 where something does not hold. */
#ifndef TIDEGATE_TESTS_SDK_EXPECT_H_
#define TIDEGATE_TESTS_SDK_EXPECT_H_

#include <stdio.h>

#define EXPECT(what)                                                   \
  do {                                                                 \
    if (!(what)) {                                                     \
      fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #what); \
      return 1;                                                        \
    }                                                                  \
  } while (0)

#endif /* TIDEGATE_TESTS_SDK_EXPECT_H_ */
