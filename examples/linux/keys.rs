//! The keys of a terminal that are not for the guest.

/// What [`Keys`] does with them, for people.
pub const KEYS: &str = "  \
  Ctrl-A x          quit
  Ctrl-A a          send Ctrl-A
  Ctrl-A h          show these keys
";

const CTRL_A: u8 = 0x01;

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Help,
    Quit,
    Send(u8),
}

/// Picks our own keys out of what is typed.
#[derive(Debug, Default)]
pub struct Keys {
    /// Ctrl-A was the last key; it may have come in an earlier read.
    is_escaped: bool,
}

impl Keys {
    /// The next key; `None` for one whose meaning depends on what follows.
    pub fn press(&mut self, key: u8) -> Option<Key> {
        if self.is_escaped {
            self.is_escaped = false;
            return Some(match key {
                b'a' => Key::Send(CTRL_A),
                b'x' => Key::Quit,
                // Whoever does not know the keys is told them.
                _ => Key::Help,
            });
        }
        self.is_escaped = key == CTRL_A;
        (!self.is_escaped).then_some(Key::Send(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Vec<Key> {
        let mut filter = Keys::default();
        keys.iter().filter_map(|key| filter.press(*key)).collect()
    }

    #[test]
    fn every_key_but_ctrl_a_goes_to_the_guest() {
        let others: Vec<u8> = (0..=0xff).filter(|key| *key != CTRL_A).collect();
        let sent: Vec<Key> = others.iter().map(|key| Key::Send(*key)).collect();
        assert_eq!(typed(&others), sent);
    }

    #[test]
    fn ctrl_a_gives_the_next_key_a_meaning() {
        assert_eq!(typed(b"\x01"), []);
        assert_eq!(typed(b"\x01x"), [Key::Quit]);
        assert_eq!(typed(b"\x01h"), [Key::Help]);
        assert_eq!(typed(b"\x01?"), [Key::Help]);
        assert_eq!(typed(b"\x01ax"), [Key::Send(CTRL_A), Key::Send(b'x')]);
        assert_eq!(typed(b"\x01\x01x"), [Key::Help, Key::Send(b'x')]);
    }
}
