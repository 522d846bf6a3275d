//! Rust as tokens: what is left without comments and blanks.

/// A word, a literal with its quotes, or a mark of one character (but `::`, `->` and `=>` are one).
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Part of an item under `#[cfg(test)]`.
    pub(crate) test: bool,
}

impl Token {
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_') && !self.text.contains('"')
    }
}

/// The tokens of a source; one that is cut off ends where the text does.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    Lexer { chars: text.chars().collect(), at: 0, line: 1 }.tokens()
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn tokens(mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        while self.at < self.chars.len() {
            let (start, line) = (self.at, self.line);
            let keep = self.step();
            // Ends at the end also where a literal is cut off.
            self.at = self.at.min(self.chars.len());
            let text: String = self.chars[start..self.at].iter().collect();
            self.line += text.matches('\n').count();
            if keep {
                tokens.push(Token { text, line, test: false });
            }
        }
        tokens
    }

    /// Moves over one token, blank or comment; whether it was a token.
    fn step(&mut self) -> bool {
        match (self.peek(0), self.peek(1)) {
            (c, _) if c.is_whitespace() => {
                self.at += 1;
                return false;
            }
            ('/', '/') => {
                self.skip_while(|c| c != '\n');
                return false;
            }
            ('/', '*') => {
                self.block_comment();
                return false;
            }
            ('"', _) => self.quoted('"'),
            ('\'', _) => self.character_or_lifetime(),
            (':', ':') | ('-' | '=', '>') => self.at += 2,
            (c, _) if c.is_ascii_digit() => self.number(),
            (c, _) if is_word(c) => self.word_or_prefixed(),
            _ => self.at += 1,
        }
        true
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.at < self.chars.len() && wanted(self.peek(0)) {
            self.at += 1;
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            self.at += 2;
            if depth == 0 {
                return;
            }
        }
    }

    /// A literal from its opening quote to the closing one.
    fn quoted(&mut self, quote: char) {
        self.at += 1;
        while self.at < self.chars.len() && self.peek(0) != quote {
            self.at += if self.peek(0) == '\\' { 2 } else { 1 };
        }
        self.at += 1;
    }

    fn character_or_lifetime(&mut self) {
        if self.peek(1) == '\\' || self.peek(2) == '\'' {
            self.quoted('\'');
        } else {
            self.at += 1;
            self.skip_while(is_word);
        }
    }

    fn number(&mut self) {
        self.skip_while(is_word);
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            self.at += 1;
            self.skip_while(is_word);
        }
    }

    fn word_or_prefixed(&mut self) {
        let start = self.at;
        self.skip_while(is_word);
        let prefix: String = self.chars[start..self.at].iter().collect();
        let hashes = (0..).take_while(|&i| self.peek(i) == '#').count();
        match prefix.as_str() {
            "r" | "br" | "cr" if self.peek(hashes) == '"' => self.raw_string(hashes),
            "r" if hashes == 1 && is_word(self.peek(1)) => {
                self.at += 1;
                self.skip_while(is_word);
            }
            "b" | "c" if self.peek(0) == '"' => self.quoted('"'),
            "b" if self.peek(0) == '\'' => self.quoted('\''),
            _ => {}
        }
    }

    fn raw_string(&mut self, hashes: usize) {
        self.at += hashes + 1;
        let closes = |lexer: &Self| {
            lexer.peek(0) == '"' && (1..=hashes).all(|ahead| lexer.peek(ahead) == '#')
        };
        while self.at < self.chars.len() && !closes(self) {
            self.at += 1;
        }
        self.at += hashes + 1;
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn comments_go_and_literals_stay_whole() {
        let text = r##"
        // unsafe /* " */
        /* a /* b */ unsafe */ x('"', '\'', b'"', 'a', "unsafe \" //", r#"un"safe"#, 1.5..2)
        /// unsafe
        r#fn<'a>
    "##;
        let tokens = tokens(text);
        let texts: Vec<_> = tokens.iter().map(|token| token.text.as_str()).collect();
        let want = [
            "x",
            "(",
            "'\"'",
            ",",
            "'\\''",
            ",",
            "b'\"'",
            ",",
            "'a'",
            ",",
            r#""unsafe \" //""#,
            ",",
            r##"r#"un"safe"#"##,
            ",",
            "1.5",
            ".",
            ".",
            "2",
            ")",
            "r#fn",
            "<",
            "'a",
            ">",
        ];
        assert_eq!(texts, want);
        assert_eq!((tokens[0].line, tokens[20].line), (3, 5));
    }
}
