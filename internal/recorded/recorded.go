// Package recorded has what the reference implementation said of two pictures with the demo checkpoint's weights, for tests.
package recorded

import "encoding/base64"

// Picture is a drawing, a question about it, and the greedy answer.
type Picture struct {
	PNG              []byte
	Base64           string // of PNG
	Question, Answer string
}

// Pictures are a red circle on one tile, and a square and a ring on two.
func Pictures() []Picture {
	list := []Picture{
		{Question: "What is in this picture?", Answer: "The picture shows a red circle.", Base64: "" +
			"iVBORw0KGgoAAAANSUhEUgAAAHAAAABwCAIAAABJgmMcAAACB0lEQVR4nO3cQU4CQRBGYTAewQNyNI4zh/EQLnohiZAQeX9VNXlvbULNRzUQ1Dkfx3Eyro/u" +
			"Ad4tQeEEhRMUTlA4QeEEhRMUTlA4QeEEhRMUTlA4QeEEhRMUTlA4QeEEhRMUTlC4z+4B7vR1uTz5k9/Xa3COf3Ue8mvk5xEfNQS3GfR1x7/1yraBJihv62Lt" +
			"eVNKa9Y8xN2qN7T+OotXtXRDW7am+EGLNrTrAN5Ws6oVGzpB81Q1Rhx0iOaqYJgs6CjNVXqkIOhAzVV0sBToWM1Vbjy/bYKLgA5fz1VoSB50C81VYlSPPBwM" +
			"utF6rvCBSdDtNFfs2B55OAx00/VcgcO7oXCCwjGgW5/3FXUJbiicoHCCwgGgb/ACukIuxA2FExROUDhB4QSFExROUDhB4QSFExROUDhB4QSFA0CH/IPQ6yEX" +
			"4obCCQonKBwD+gYvo9QluKFwgsJhoFufenB4NxSOBN10Sdmx4Q3dzhQf2CMPx4NutKSJUSMbuoVpaEiPPFwKdPiS5sYLbuhY0+hg2SM/0DQ9Uvw1dJRpwTAV" +
			"b0pDTGvGKL1vU9ffOlc+o6Ufm1pWtfhBe+59V7OqLc9fzwf7gkvteuH2dpdw3pAVbgrobd4y2H7z2yY4QeEEhRMUTlA4QeEEhRMUTlA4QeEEhRMUTlA4QeEE" +
			"hRMUTlA4QeEEhRMUTlC4H0cekffVOCUUAAAAAElFTkSuQmCC"},
		{Question: "图片里有什么？", Answer: "图片里有一个蓝色的正方形和一个黄色的圆环。", Base64: "" +
			"iVBORw0KGgoAAAANSUhEUgAAAOAAAABwCAIAAACIKev1AAACXklEQVR4nO3dvXHUUBhA0TVjOqAIKnHixDltEBMQ0wY9UQQdkDjYGY9ngPX+SHpXz+eka1sK" +
			"7nzSkyXt3cPj0wGqPozeAThFoKQJlDSBkiZQ0gRKmkBJEyhpAiVNoKTdD9nq748/NtjKpz9fN9gKqzJBSRMoaQIlTaCkCZQ0gZImUNIESppASRMoaQIlTaCk" +
			"CZQ0gZImUNIESppASRMoaQIlTaCkCZQ0gZImUNIESppASRMoaQIlTaCkCZQ0gZImUNIESppASRvzhmXvPuZMJihpAiVNoKQJlDSBkiZQ0gRKmkBJEyhpAiVN" +
			"oKQJlDSBkiZQ0gRKmkBJEyhpAiVtzCMfbO/n918nPv3y7fNme3KRu4fHp9H7wIpOd/m3WqkCndalab7WyVSgE7olzdcKmVokzWapOpf9U1cT6FQWT2p4owKd" +
			"x0oxjW1UoJNYNaOBjVokzeDMgP636Lnx11flQv27cLqt46fDTzf/ySF+994M68zJ9+aPDSnYBJ3ZpQfl4Cg1Qfdt45i2b1eg07p6TVP4B9ILgc7pxsg6jQp0" +
			"x4acLG68UYFOaJH5FxmiAiVNoKQJlDSBkiZQ0gRKmkBJE+iEFrmWHrllRKA7NuRa+sYbFeicbpx/kfF5EOjEro6sU+dBoHu38QF3+5MKd9TP7DgLz68qNTuP" +
			"TNDdW+pZoqWebVqWCfounB6lwcH5wnPxk1g7slG3hzrET2LVgAbevCzQeayU0dhb6wU6lcVjGv7gh0Bns2BSw+s8WCRNzCvA2QFfosA++BoaWJ5FEmkCJU2g" +
			"pAmUNIGSJlDSBEraMwP9gDINQc5IAAAAAElFTkSuQmCC"},
	}
	for i := range list {
		var err error
		if list[i].PNG, err = base64.StdEncoding.DecodeString(list[i].Base64); err != nil {
			panic(err)
		}
	}
	return list
}
