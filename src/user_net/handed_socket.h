// HandedSocket: a socket that another process bound, for libslirp to listen at. libslirp opens and
// binds the sockets of published ports itself, and cannot be given one; this process may not bind.
// So while a HandedSocket is there, bind() and listen() of this program, which come before those of
// the C library for libslirp too, put it in the place of the socket that is bound.
//
//   const HandedSocket handed(descriptor);
//   slirp_add_hostxfwd(...);                 // listens there
//
// One at a time, on the thread that calls libslirp.
#pragma once

namespace vmm::user_net {

class HandedSocket {
 public:
  // Keeps no hold of `fd`: what is put in its place is a duplicate.
  explicit HandedSocket(int fd);
  HandedSocket(const HandedSocket&) = delete;
  HandedSocket& operator=(const HandedSocket&) = delete;
  ~HandedSocket();
};

}  // namespace vmm::user_net
