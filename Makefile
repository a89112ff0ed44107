# What people type often. Everything works without make, too: go run ./cmd/chulengo serve, go test ./...

.PHONY: build serve test race check bench generate clean

build: ## bin/chulengo, one file with the demo checkpoint inside
	CGO_ENABLED=0 go build -trimpath -o bin/chulengo ./cmd/chulengo

serve: ## the chat page on http://localhost:5000
	go run ./cmd/chulengo serve

test:
	go test ./...

race:
	go test -race -short ./...

check: ## what CI runs
	.ci/run

bench: ## the demo checkpoint and the hot routines on this machine
	go run ./cmd/chulengo bench

generate: ## assembly (kernels/cpu) and Unicode tables (tokenizer)
	go generate ./...

clean:
	rm -rf bin build
