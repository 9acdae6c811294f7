// Offsets and bits of the PCI configuration space (PCI Local Bus 3.0, chapter 6).
#pragma once

#include <cstdint>

namespace vmm::pci {

inline constexpr unsigned kConfigSize = 256;  // bytes; no function here has extended space

inline constexpr unsigned kVendorId = 0x00;
inline constexpr unsigned kDeviceId = 0x02;
inline constexpr unsigned kCommand = 0x04;
inline constexpr unsigned kStatus = 0x06;
inline constexpr unsigned kRevision = 0x08;
inline constexpr unsigned kClassCode = 0x09;  // three bytes
inline constexpr unsigned kBar0 = 0x10;
inline constexpr unsigned kSubsystemVendorId = 0x2c;
inline constexpr unsigned kSubsystemId = 0x2e;
inline constexpr unsigned kCapabilityPointer = 0x34;
inline constexpr unsigned kInterruptLine = 0x3c;
inline constexpr unsigned kFirstCapability = 0x40;

inline constexpr std::uint16_t kCommandMemory = 1u << 1;
inline constexpr std::uint16_t kCommandBusMaster = 1u << 2;
inline constexpr std::uint16_t kCommandIntxDisable = 1u << 10;
inline constexpr std::uint16_t kStatusCapabilities = 1u << 4;

inline constexpr std::uint8_t kCapabilityVendor = 0x09;
inline constexpr std::uint8_t kCapabilityMsix = 0x11;

// MSI-X message control (6.8.2.3).
inline constexpr std::uint16_t kMsixEnable = 1u << 15;
inline constexpr std::uint16_t kMsixFunctionMask = 1u << 14;

}  // namespace vmm::pci
