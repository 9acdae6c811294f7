// Registers and bits of the 16550A UART (National Semiconductor PC16550D data sheet).
#pragma once

#include <cstdint>

namespace vmm::uart {

// Offsets. Two registers share an offset by direction or by the divisor latch bit.
inline constexpr unsigned kData = 0;             // RBR, THR; DLL
inline constexpr unsigned kInterruptEnable = 1;  // IER; DLM
inline constexpr unsigned kInterruptId = 2;      // IIR; FCR
inline constexpr unsigned kLineControl = 3;
inline constexpr unsigned kModemControl = 4;
inline constexpr unsigned kLineStatus = 5;
inline constexpr unsigned kModemStatus = 6;
inline constexpr unsigned kScratch = 7;

inline constexpr std::uint8_t kIerReceived = 1;
inline constexpr std::uint8_t kIerTransmitEmpty = 2;
inline constexpr std::uint8_t kIerLineStatus = 4;
inline constexpr std::uint8_t kIerModemStatus = 8;

inline constexpr std::uint8_t kIirNone = 1;
inline constexpr std::uint8_t kIirModemStatus = 0;
inline constexpr std::uint8_t kIirTransmitEmpty = 2;
inline constexpr std::uint8_t kIirReceived = 4;
inline constexpr std::uint8_t kIirLineStatus = 6;
inline constexpr std::uint8_t kIirFifos = 0xc0;

inline constexpr std::uint8_t kFcrEnable = 1;
inline constexpr std::uint8_t kFcrClearReceive = 2;

inline constexpr std::uint8_t kLcrDivisorLatch = 0x80;

inline constexpr std::uint8_t kMcrDtr = 1;
inline constexpr std::uint8_t kMcrRts = 2;
inline constexpr std::uint8_t kMcrOut1 = 4;
inline constexpr std::uint8_t kMcrOut2 = 8;
inline constexpr std::uint8_t kMcrLoopback = 0x10;

inline constexpr std::uint8_t kLsrDataReady = 1;
inline constexpr std::uint8_t kLsrOverrun = 2;
inline constexpr std::uint8_t kLsrBreak = 0x10;
inline constexpr std::uint8_t kLsrTransmitEmpty = 0x20;
inline constexpr std::uint8_t kLsrIdle = 0x40;

inline constexpr std::uint8_t kMsrCts = 0x10;
inline constexpr std::uint8_t kMsrDsr = 0x20;
inline constexpr std::uint8_t kMsrRing = 0x40;
inline constexpr std::uint8_t kMsrCarrier = 0x80;

}  // namespace vmm::uart
