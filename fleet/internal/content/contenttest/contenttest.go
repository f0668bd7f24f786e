// Package contenttest makes content for tests of its transfer.
package contenttest

import "math/rand/v2"

// Program gives n bytes that compress about as code does: words from a vocabulary, by a seed.
func Program(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 3+r.IntN(9))
		for j := range words[i] {
			words[i][j] = byte(r.UintN(256))
		}
	}
	b := make([]byte, 0, n+12)
	for len(b) < n {
		b = append(b, words[r.IntN(1+r.IntN(len(words)))]...)
	}
	return b[:n]
}
