//! A reader of deflated messages as plain as can be (RFC 1951), with a window that it insists on.

/// What has been read, and how far back it may be referred to.
pub(super) struct Reader {
    window: usize,
    takeover: bool,
    /// All that was read since the context began.
    text: Vec<u8>,
}

/// The bytes are no deflated data, or refer back too far.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad(&'static str);

type Result<T> = std::result::Result<T, Bad>;

impl Reader {
    pub(super) fn new(window: usize, takeover: bool) -> Self {
        Self {
            window,
            takeover,
            text: Vec::new(),
        }
    }

    /// One message, its tail left out.
    pub(super) fn read(&mut self, deflated: &[u8]) -> Result<Vec<u8>> {
        if !self.takeover {
            self.text.clear();
        }
        let mut from = self.text.len();
        let mut message = Vec::new();
        let bytes = [deflated, &[0, 0, 0xff, 0xff]].concat();
        let mut bits = Bits {
            bytes: &bytes,
            at: 0,
        };
        while bits.at < bytes.len() * 8 {
            let is_last = self.block(&mut bits)?;
            let at_end = bits.at.div_ceil(8);
            if is_last {
                // A stream ends: the next begins at a byte, and knows nothing of this one.
                message.extend_from_slice(&self.text[from..]);
                self.text.clear();
                from = 0;
                bits.at = at_end * 8;
                if at_end == deflated.len() {
                    return Ok(message);
                }
            }
        }
        message.extend_from_slice(&self.text[from..]);
        Ok(message)
    }

    fn block(&mut self, bits: &mut Bits<'_>) -> Result<bool> {
        let is_last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => self.stored(bits)?,
            1 => {
                let lengths: Vec<u8> = (0..288)
                    .map(|symbol| match symbol {
                        0..=143 => 8,
                        144..=255 => 9,
                        256..=279 => 7,
                        _ => 8,
                    })
                    .collect();
                self.coded(bits, &Code::new(&lengths), &Code::new(&[5; 32]))?;
            }
            2 => {
                let (literals, distances) = codes(bits)?;
                self.coded(bits, &literals, &distances)?;
            }
            _ => return Err(Bad("a block type that is not")),
        }
        Ok(is_last)
    }

    fn stored(&mut self, bits: &mut Bits<'_>) -> Result<()> {
        bits.at = bits.at.div_ceil(8) * 8;
        let (len, not) = (bits.take(16)?, bits.take(16)?);
        if len != !not & 0xffff {
            return Err(Bad("a stored block's length"));
        }
        for _ in 0..len {
            let byte = bits.take(8)? as u8;
            self.text.push(byte);
        }
        Ok(())
    }

    fn coded(&mut self, bits: &mut Bits<'_>, literals: &Code, distances: &Code) -> Result<()> {
        loop {
            match literals.read(bits)? {
                literal @ 0..=255 => self.text.push(literal as u8),
                256 => return Ok(()),
                symbol @ 257..=285 => {
                    let len = match symbol {
                        285 => 258,
                        257..=264 => symbol - 254,
                        _ => {
                            let extra = (symbol - 261) / 4;
                            let base = (4 + (symbol - 261) % 4) << extra;
                            3 + base + bits.take(extra)?
                        }
                    };
                    let symbol = distances.read(bits)?;
                    let distance = match symbol {
                        0..=3 => symbol + 1,
                        4..=29 => {
                            let extra = symbol / 2 - 1;
                            1 + ((2 + symbol % 2) << extra) + bits.take(extra)?
                        }
                        _ => return Err(Bad("a distance that is not")),
                    } as usize;
                    if distance > self.text.len() || distance > self.window {
                        return Err(Bad("refers back too far"));
                    }
                    for _ in 0..len {
                        self.text.push(self.text[self.text.len() - distance]);
                    }
                }
                _ => return Err(Bad("a length that is not")),
            }
        }
    }
}

/// The codes of a dynamic block.
fn codes(bits: &mut Bits<'_>) -> Result<(Code, Code)> {
    const ORDER: [usize; 19] = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ];
    let literals = bits.take(5)? as usize + 257;
    let distances = bits.take(5)? as usize + 1;
    if literals > 286 || distances > 30 {
        return Err(Bad("too many symbols"));
    }
    let count = bits.take(4)? as usize + 4;
    let mut lengths = [0; 19];
    for &place in &ORDER[..count] {
        lengths[place] = bits.take(3)? as u8;
    }
    let code = Code::new(&lengths);
    code.check(false)?;
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match code.read(bits)? {
            symbol @ 0..=15 => (symbol as u8, 1),
            16 => {
                let last = *lengths.last().ok_or(Bad("nothing to repeat"))?;
                (last, 3 + bits.take(2)?)
            }
            17 => (0, 3 + bits.take(3)?),
            _ => (0, 11 + bits.take(7)?),
        };
        lengths.extend(std::iter::repeat_n(length, times as usize));
    }
    if lengths.len() > literals + distances || lengths[256] == 0 {
        return Err(Bad("lengths beyond the end"));
    }
    let (first, second) = lengths.split_at(literals);
    let codes = (Code::new(first), Code::new(second));
    codes.0.check(true)?;
    codes.1.check(true)?;
    Ok(codes)
}

/// A canonical code: for each symbol its length and bits.
struct Code(Vec<(u8, u32)>);

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut next = 0;
        let mut codes = vec![(0, 0); lengths.len()];
        for length in 1..=15 {
            next <<= 1;
            for (symbol, _) in lengths.iter().enumerate().filter(|&(_, &l)| l == length) {
                codes[symbol] = (length, next);
                next += 1;
            }
        }
        Self(codes)
    }

    /// Neither more codes than there are, nor fewer: but one alone may be.
    fn check(&self, one_may_be_alone: bool) -> Result<()> {
        let used: Vec<u8> = self
            .0
            .iter()
            .map(|code| code.0)
            .filter(|&l| l > 0)
            .collect();
        let share: u32 = used.iter().map(|&length| 1 << (15 - length)).sum();
        let alone = one_may_be_alone && (used.is_empty() || used == [1]);
        match share == 1 << 15 || alone {
            true => Ok(()),
            false => Err(Bad("an incomplete code")),
        }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Result<u32> {
        let (mut code, mut length) = (0, 0);
        while length < 15 {
            code = code << 1 | bits.take(1)?;
            length += 1;
            if let Some(symbol) = self.0.iter().position(|&entry| entry == (length, code)) {
                return Ok(symbol as u32);
            }
        }
        Err(Bad("a code that is not"))
    }
}

/// Bits, the lowest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Result<u32> {
        let mut value = 0;
        for place in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(Bad("it ends too soon"))?;
            value |= u32::from(byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Ok(value)
    }
}
