//! A name server of a test: one name, and the addresses that it has at the moment (RFC 1035).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// It answers every question for an address, whatever the name, until it is dropped.
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    pub(crate) fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        // How long its end may take.
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let ended = Arc::new(AtomicBool::new(false));
        let (known, over) = (addresses.clone(), ended.clone());
        let thread = thread::spawn(move || {
            let mut bytes = [0; 512];
            while !over.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                let answer = answer(&bytes[..len], &known.lock().unwrap());
                let _ = socket.send_to(&answer, from);
            }
        });
        Self {
            address,
            addresses,
            ended,
            thread: Some(thread),
        }
    }

    /// From now on the name has these.
    pub(crate) fn set(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock().unwrap() = addresses.to_vec();
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The question back, and an A record for each address.
fn answer(question: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let id = &question[..2];
    let count = (addresses.len() as u16).to_be_bytes();
    let no_error = if addresses.is_empty() { 0x83 } else { 0x80 };
    let mut answer = [id, &[0x81, no_error, 0, 1], &count, &[0; 4]].concat();
    // One question, of the name, its end, its type and its class.
    let name = question[12..].iter().position(|&byte| byte == 0).unwrap();
    answer.extend(&question[12..12 + name + 5]);
    for address in addresses {
        // The name is the question's; type A, class IN, good for no time, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
