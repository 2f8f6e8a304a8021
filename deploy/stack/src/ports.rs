//! Free loopback ports for parts that must be told theirs.
//!
//! Invariants: no port is handed out twice in one process; and for about a minute the kernel hands
//! a port from here to nobody who asks for "any port", in whatever process, while a part that names
//! it can bind it. That holds because a closed connection leaves the port in TIME_WAIT: automatic
//! choice avoids such a port, an explicit bind with SO_REUSEADDR (which every part uses) does not.

use std::collections::HashSet;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::error::StackError;

static HANDED_OUT: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port on 127.0.0.1 that nothing listens on. Range: the kernel's ephemeral ports.
///
/// # Errors
/// The machine has no free port, or no loopback interface.
pub fn free() -> Result<u16, StackError> {
    loop {
        let port = reserve().map_err(|error| {
            StackError::new("ports", "no free port on 127.0.0.1").caused_by(error)
        })?;
        if HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(port);
        }
    }
}

/// Takes a port from the kernel and leaves it in TIME_WAIT: the accepting side closes first.
fn reserve() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let mut client = TcpStream::connect(address)?;
    drop(listener.accept()?);
    client.read_to_end(&mut Vec::new())?; // The end has come through, so it was the first.
    Ok(address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_to_bind_and_never_handed_out_twice() {
        let ports: Vec<u16> = (0..200).map(|_| free().unwrap()).collect();
        let distinct: HashSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), ports.len());
        for port in ports {
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        }
    }

    #[test]
    fn the_kernel_gives_a_reserved_port_to_nobody_else() {
        let reserved: HashSet<u16> = (0..500).map(|_| free().unwrap()).collect();
        let any =
            || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let taken: Vec<u16> =
            (0..2_000).map(|_| any()).filter(|port| reserved.contains(port)).collect();
        assert!(taken.is_empty(), "{taken:?}");
    }
}
