// Built by `.ci/run --tools` into a static binary.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func get(url string) string {
	answer, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(answer.StatusCode, " ", answer.Proto, " ", string(body))
}

func main() {
	for _, scheme := range []string{"https", "http"} {
		fmt.Println("allowed", get(scheme+"://api.bed.test/echo?m="+os.Args[1]))
	}
	fmt.Println("secret", get("https://api.bed.test/secret/x"))
	fmt.Println("plain secret", get("http://api.bed.test/secret/x"))
	fmt.Println("evil", get("https://evil.bed.test/"))
}
