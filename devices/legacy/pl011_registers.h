// Registers and bits of the PrimeCell UART (Arm DDI 0183, chapter 3).
#pragma once

#include <cstdint>

namespace vmm::pl011 {

inline constexpr std::uint64_t kData = 0x000;
inline constexpr std::uint64_t kReceiveStatus = 0x004;
inline constexpr std::uint64_t kFlags = 0x018;
inline constexpr std::uint64_t kLowPower = 0x020;
inline constexpr std::uint64_t kIntegerDivisor = 0x024;
inline constexpr std::uint64_t kFractionDivisor = 0x028;
inline constexpr std::uint64_t kLineControl = 0x02c;
inline constexpr std::uint64_t kControl = 0x030;
inline constexpr std::uint64_t kFifoLevels = 0x034;
inline constexpr std::uint64_t kInterruptMask = 0x038;
inline constexpr std::uint64_t kRawInterrupts = 0x03c;
inline constexpr std::uint64_t kInterrupts = 0x040;
inline constexpr std::uint64_t kInterruptClear = 0x044;
inline constexpr std::uint64_t kDmaControl = 0x048;

inline constexpr std::uint32_t kFlagClearToSend = 1 << 0;
inline constexpr std::uint32_t kFlagDataSetReady = 1 << 1;
inline constexpr std::uint32_t kFlagCarrier = 1 << 2;
inline constexpr std::uint32_t kFlagReceiveEmpty = 1 << 4;
inline constexpr std::uint32_t kFlagReceiveFull = 1 << 6;
inline constexpr std::uint32_t kFlagTransmitEmpty = 1 << 7;

inline constexpr std::uint16_t kLineFifos = 1 << 4;

inline constexpr std::uint16_t kControlEnable = 1 << 0;
inline constexpr std::uint16_t kControlLoopback = 1 << 7;
inline constexpr std::uint16_t kControlTransmit = 1 << 8;
inline constexpr std::uint16_t kControlReceive = 1 << 9;

inline constexpr std::uint16_t kReceived = 1 << 4;
inline constexpr std::uint16_t kTransmitted = 1 << 5;
inline constexpr std::uint16_t kReceiveTimeout = 1 << 6;
inline constexpr std::uint16_t kOverrun = 1 << 10;
inline constexpr std::uint16_t kAllInterrupts = 0x7ff;

inline constexpr std::uint32_t kPart = 0x011;
inline constexpr std::uint32_t kRevision = 3;  // r1p5: FIFOs of 32 bytes

}  // namespace vmm::pl011
