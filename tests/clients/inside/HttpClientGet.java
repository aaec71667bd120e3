import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;

public class HttpClientGet {
    static final HttpClient client = HttpClient.newHttpClient();

    static HttpResponse<String> get(String url) throws Exception {
        return client.send(HttpRequest.newBuilder(URI.create(url)).build(), BodyHandlers.ofString());
    }

    public static void main(String[] args) throws Exception {
        for (String scheme : new String[] {"https", "http"}) {
            HttpResponse<String> answer = get(scheme + "://api.bed.test/echo?m=" + args[0]);
            System.out.println("allowed " + answer.statusCode() + " " + answer.version());
        }
        HttpRequest post = HttpRequest.newBuilder(URI.create("http://api.bed.test:8080/echo?m=" + args[0])).POST(BodyPublishers.ofString("body")).build();
        String sent = client.send(post, BodyHandlers.ofString()).body();
        if (!sent.contains("\"body\":\"body\"")) throw new IOException(sent);
        HttpResponse<String> secret = get("https://api.bed.test/secret/x");
        System.out.println("secret " + secret.statusCode() + " " + secret.body());
        HttpResponse<String> plain = get("http://api.bed.test/secret/x");
        System.out.println("plain secret " + plain.statusCode() + " " + plain.body());
        try {
            System.out.println("reached " + get("https://evil.bed.test/").statusCode());
        } catch (IOException error) {
            System.out.println("evil " + error + " " + error.getCause());
        }
    }
}
