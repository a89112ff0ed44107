# What people type often. Everything works without make, too: go run ./cmd/chulengo serve, go test ./...

.PHONY: build gpu serve test test-gpu test-emulated race check bench generate clean

build: ## bin/chulengo, one file with the demo checkpoint inside
	CGO_ENABLED=0 go build -trimpath -o bin/chulengo ./cmd/chulengo

gpu: ## bin/chulengo with the CUDA kernels; needs a C compiler, and nvcc or Python's pip (see kernels/cuda/build.sh)
	kernels/cuda/build.sh
	eval "$$(kernels/cuda/build.sh env)" && go build -trimpath -tags cuda -o bin/chulengo ./cmd/chulengo

test-gpu: ## bin/gputest, which runs on a machine with a GPU and no Go: bin/gputest -test.v, with the folder testdata beside it
	kernels/cuda/build.sh
	eval "$$(kernels/cuda/build.sh env)" && go test -tags cuda,nodemo -trimpath -ldflags '-s -w' -c -o bin/gputest ./kernels/cuda && \
		for package in cmd/chulengo serve serve/openai; do go test -tags cuda,nodemo -trimpath -ldflags '-s -w' -c -o bin/$$(basename $$package)test ./$$package || exit 1; done
	rm -rf bin/testdata && cp -R model/testdata bin/testdata

test-emulated: ## the CUDA device's tests on a software GPU: the same kernels, compiled for the CPU
	kernels/cuda/build.sh
	kernels/cuda/emu/build.sh build/emulated
	eval "$$(kernels/cuda/build.sh env)" && LD_LIBRARY_PATH=$(CURDIR)/build/emulated go test -tags cuda ./kernels/cuda/...

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
