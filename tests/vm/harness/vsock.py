"""The host's end of a guest's vsock."""
import socket


def connect(path, port):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(path)
    client.sendall(b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            break
        answer += byte
    return client, answer.decode()


def dial(t, path, port):
    """A connection to the guest's listener, which may not be there yet."""
    def attempt():
        client, answer = connect(path, port)
        if answer.startswith("OK "):
            return client
        client.close()
        return None
    return t.eventually(attempt, 20, "an answer of the guest's listener")


def read_all(client):
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data
