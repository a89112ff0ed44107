//go:build cuda

/* Every entry point that cu and this package call jumps through a table that loader.c fills by dlopen, in the order of names.inc. */
	.text
	.set place, 0
#ifdef __x86_64__
	.macro entry name
	.globl \name
	.hidden \name
	.type \name,@function
\name:
	endbr64
	jmp *cudl_table+place(%rip)
	.size \name,.-\name
	.set place, place+8
	.endm
#endif
#ifdef __aarch64__
	.macro entry name
	.globl \name
	.hidden \name
	.type \name,%function
\name:
	bti c
	adrp x16, cudl_table+place
	ldr x16, [x16, :lo12:cudl_table+place]
	br x16
	.size \name,.-\name
	.set place, place+8
	.endm
#endif
#define X(n) entry n
#include "names.inc"
#if defined(__linux__) && defined(__ELF__)
	.section .note.GNU-stack,"",%progbits
#endif
