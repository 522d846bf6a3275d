// String input and output.

#include "guest.h"
        .code64
        start
        single  0, rep outsb
        single  1, rep outsw
        single  2, rep outsl
        single  3, rep insb
        single  4, rep insw
        single  5, rep insl
        single  6, rep movsb
        single  7, rep movsw
        single  8, rep movsl
        single  9, rep movsq
