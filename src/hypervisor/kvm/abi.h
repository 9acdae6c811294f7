// <linux/kvm.h>, mended for C++.
//
// The headers of Linux 5.18 to 6.4 put an empty struct before each flexible array. It has no size
// in C and one byte in C++, which moves the array and, as the size is part of it, changes the
// number of the ioctl.
#pragma once

#include <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]

#include <linux/kvm.h>

static_assert(sizeof(kvm_irq_routing) == 8);

// Of Linux 6.11 (api.rst, 4.143).
#ifndef KVM_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
struct kvm_pre_fault_memory {
  __u64 gpa;
  __u64 size;
  __u64 flags;
  __u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif
