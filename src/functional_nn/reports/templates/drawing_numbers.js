/* Reading of the numbers in the page, probabilities, and a picture as a PNG file. */

/** The bytes in a base64 text. */
function bytesIn(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** The little-endian float32 numbers in a base64 text; typed arrays are little-endian wherever browsers run. */
function numbersIn(text) {
  return new Float32Array(bytesIn(text).buffer);
}

/** A program with its constants as arrays. In the page each one is [place, base64 text]. */
function readProgram(written) {
  return { ...written, constants: written.constants.map(([place, text]) => [place, numbersIn(text)]) };
}

/** exp(y) / Σ exp(y). */
function softmax(y) {
  const most = Math.max(...y), powers = Array.from(y, (one) => Math.exp(one - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

function median(numbers) {
  const sorted = Array.from(numbers).sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** The bytes that the network reads. A gray digit with a bright border is inverted, as in `functional-nn predict`. */
function networkInput(picture, { imageShape: [height, width, channels], areDigits }) {
  if (channels === 3) return Uint8Array.from({ length: 3 * picture.length }, (_, i) => picture[Math.floor(i / 3)]);
  if (!areDigits) return picture;
  const border = picture.filter((_, i) => {
    const row = Math.floor(i / width), column = i % width;
    return row === 0 || row === height - 1 || column === 0 || column === width - 1;
  });
  // The pixels in the corners count twice, once for each of their sides.
  const corners = [0, width - 1, (height - 1) * width, height * width - 1].map((i) => picture[i]);
  return median([...border, ...corners]) > 127 ? picture.map((byte) => 255 - byte) : picture;
}

/** A gray picture as a PNG file: the bytes themselves, without compression, so that a reader gets exactly these. */
function pngOf(picture, [height, width]) {
  const word = (number) => [24, 16, 8, 0].map((shift) => (number >>> shift) & 255);
  const crcOf = (bytes) => {
    // The checksum of PNG, bit by bit; 0xedb88320 is its polynomial in reversed order.
    let crc = ~0;
    for (const byte of bytes) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
  };
  const chunk = (name, bytes) => {
    const named = [...Array.from(name, (letter) => letter.charCodeAt(0)), ...bytes];
    return [...word(bytes.length), ...named, ...word(crcOf(named))];
  };
  const rows = [];
  // Each row begins with its filter: 0 for none.
  for (let row = 0; row < height; row++) rows.push(0, ...picture.subarray(row * width, (row + 1) * width));
  let low = 1, high = 0; // the checksum Adler-32
  for (const byte of rows) {
    low = (low + byte) % 65521;
    high = (high + low) % 65521;
  }
  const blocks = [];
  for (let start = 0; start < rows.length; start += 65535) {
    const part = rows.slice(start, start + 65535), size = part.length;
    const isLast = start + size === rows.length;
    // A stored block of zlib: whether it is the last, its size, and the complement of its size.
    blocks.push([+isLast, size & 255, size >> 8, ~size & 255, (~size >> 8) & 255], part);
  }
  const stored = [0x78, 0x01, ...blocks.flat(), ...word(((high << 16) | low) >>> 0)];
  const header = [...word(width), ...word(height), 8, 0, 0, 0, 0]; // 8 bits, gray
  const signature = [137, 80, 78, 71, 13, 10, 26, 10];
  return new Uint8Array([...signature, ...chunk("IHDR", header), ...chunk("IDAT", stored), ...chunk("IEND", [])]);
}
