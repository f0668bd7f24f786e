package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// victim commits as fast as it can until it is killed, and acknowledges each commit on stdout after it returned:
// "c <worker> <n>" for an event, "b <n>" for a block of a transfer, "B <n>" for a blob.
func victim(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	journalSize = 64 << 10
	s, err := Open(dir, quiet, time.Now)
	fail(err)
	if os.Getenv("STORE_TEST_HOLD") != "" {
		fmt.Println("open")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	fmt.Println("open", s.Recovered())
	for w := range 4 {
		go func() {
			key := fmt.Sprintf("count%d", w)
			for {
				tx := s.Begin("app")
				v, _, err := tx.Get("default", key)
				fail(err)
				n, _ := strconv.Atoi(string(v))
				fail(tx.Set("default", key, []byte(strconv.Itoa(n+1))))
				fail(tx.Publish("t", fmt.Appendf(nil, "%d %d", w, n+1), 1, false))
				fail(tx.Commit(ctx))
				fmt.Println("c", w, n+1)
			}
		}()
	}
	go func() { // the outbox is delivered all the time
		for range s.Notify() {
			m, err := s.Outbox(0, 50)
			fail(err)
			for _, m := range m[:len(m)/2] {
				fail(s.Delivered(m.ID))
			}
		}
	}()
	go func() {
		target, _ := victimBlob(0)
		fail(s.BeginTransfer(target, []byte("offer")))
		t, _, err := s.Transfer(target)
		fail(err)
		for i := len(t.Have); ; i++ {
			fail(s.PutBlocks(target, map[int][]byte{i: victimBlock(i)}))
			fmt.Println("b", i)
		}
	}()
	for i := 1; ; i++ {
		digest, data := victimBlob(i)
		if has, err := s.HasBlob(digest); err != nil || has {
			fail(err)
			continue
		}
		fail(s.PutBlob(digest, int64(len(data)), bytes.NewReader(data)))
		fmt.Println("B", i)
		if i > 3 { // so that pages are freed and used again
			old, _ := victimBlob(i - 3)
			fail(s.DeleteBlob(old))
		}
	}
}

func victimBlob(i int) (string, []byte) {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	return randomBlob(r, 1<<20+r.IntN(1<<20))
}

func victimBlock(i int) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(i)), 500)
}

func TestEveryAcknowledgedCommitSurvivesAKill(t *testing.T) {
	smallJournal(t)
	r := seed(t)
	dir := t.TempDir()
	counts, blocks, blob := map[int]int{}, -1, 0
	cycles := 20
	if testing.Short() {
		cycles = 5
	}
	for cycle := 0; cycle < cycles || len(counts) < 4 || blocks < 0 || blob == 0; cycle++ {
		acks, delay := 1+r.IntN(100), time.Duration(r.IntN(5000))*time.Microsecond
		for _, line := range runVictim(t, dir, acks, delay) {
			f := strings.Fields(line)
			num := func(i int) int { n, err := strconv.Atoi(f[i]); must(t, err); return n }
			switch f[0] {
			case "open":
				if len(f) > 1 {
					t.Fatalf("cycle %d: the store was set aside: %s", cycle, line)
				}
			case "c":
				counts[num(1)] = num(2)
			case "b":
				blocks = num(1)
			case "B":
				blob = num(1)
			default:
				t.Fatalf("cycle %d: the victim says %q", cycle, line)
			}
		}
		s := open(t, dir)
		if s.Recovered() != "" {
			t.Fatalf("cycle %d: a kill damaged the store", cycle)
		}
		mustCheck(t, s)
		for w, n := range counts {
			// One more may have been committed than was acknowledged.
			got := get(t, s, "app", fmt.Sprintf("count%d", w))
			if got != strconv.Itoa(n) && got != strconv.Itoa(n+1) {
				t.Fatalf("cycle %d: worker %d had commit %d acknowledged, the store says %s", cycle, w, n, got)
			}
			counts[w], _ = strconv.Atoi(got)
		}
		checkOutbox(t, s, counts)
		target, _ := victimBlob(0)
		if blocks >= 0 {
			tr, ok, err := s.Transfer(target)
			must(t, err)
			if !ok || len(tr.Have) <= blocks || string(tr.Meta) != "offer" {
				t.Fatalf("cycle %d: %d blocks of %d acknowledged are there", cycle, len(tr.Have), blocks+1)
			}
			rd, err := s.TransferReader(target, blocks+1)
			must(t, err)
			for i := range blocks + 1 {
				b := make([]byte, 4000)
				if _, err := io.ReadFull(rd, b); err != nil || !bytes.Equal(b, victimBlock(i)) {
					t.Fatalf("cycle %d: block %d: %v", cycle, i, err)
				}
			}
		}
		if blob > 0 {
			digest, want := victimBlob(blob)
			if got, ok, err := s.Blob(digest); err != nil || !ok || !bytes.Equal(got, want) {
				t.Fatalf("cycle %d: blob %d: %v, %v", cycle, blob, ok, err)
			}
		}
		must(t, s.Close())
	}
	t.Logf("%v commits, %d blocks, %d blobs", counts, blocks+1, blob)
}

// checkOutbox: per worker, the messages that are left are the newest ones, without a gap.
func checkOutbox(t *testing.T, s *Store, counts map[int]int) {
	t.Helper()
	all, err := s.Outbox(0, 1<<30)
	must(t, err)
	last := map[int]int{}
	id := uint64(0)
	for _, m := range all {
		var w, n int
		_, err := fmt.Sscan(string(m.Payload), &w, &n)
		must(t, err)
		if m.ID <= id {
			t.Fatalf("message %d follows %d", m.ID, id)
		}
		if p, ok := last[w]; ok && n != p+1 {
			t.Fatalf("worker %d: message %d follows %d", w, n, p)
		}
		id, last[w] = m.ID, n
	}
	for w, n := range last {
		if want, ok := counts[w]; ok && n != want {
			t.Fatalf("worker %d: newest message is %d, its count %d", w, n, want)
		}
	}
}

// runVictim kills it a moment after so many acknowledgements, and gives all lines that it printed until then.
func runVictim(t *testing.T, dir string, acks int, delay time.Duration) (lines []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_VICTIM="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		lines = append(lines, sc.Text())
		if len(lines) == 1+acks { // the first says that it is open
			defer time.AfterFunc(delay, func() { _ = cmd.Process.Kill() }).Stop()
		}
	}
	_ = cmd.Wait()
	if len(lines) <= acks || stderr.Len() > 0 {
		t.Fatalf("the victim ended by itself after %q: %s", lines, stderr.String())
	}
	return lines
}

func TestASecondProcessIsToldWhoHoldsTheStore(t *testing.T) {
	smallJournal(t)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_VICTIM="+dir, "STORE_TEST_HOLD=1")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "open\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	_, err = Open(dir, quiet, atTestTime)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", cmd.Process.Pid)) ||
		!strings.Contains(err.Error(), "store.lock") {
		t.Errorf("got %v: want the process and the file", err)
	}
	t.Log(err)
	in.Close()
	must(t, cmd.Wait())
	open(t, dir)
}
